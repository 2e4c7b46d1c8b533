"""Compile the GPU's kernel for a card that needn't be there: what the interpreter takes is more than the compiler does."""

import sys

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from kqv.gpu.kernel import attend

POINTERS = {"quantities": "*fp32", "lows": "*i32", "highs": "*i32", "bias": "*fp32", "sequences": "*i64", "tiles": "*i32"}


def main(capability: int, number: str, look: bool) -> None:
    """Print what was made, which has matrix instructions, and copies of the next tile while this one is worked on."""
    sizes = {"WIDTH": 64, "DEPTH": 64, "ROWS": 64, "KEYS": 32, "shared": 1}
    kinds = {"SAME": True, "ALIGNED": True, "HAS_BIAS": look, "LOOK": look, "WIDEN": False}
    constants = sizes | kinds
    names = attend.arg_names
    signature = dict.fromkeys(names, "i32") | POINTERS | {"queries": f"*{number}", "outputs": f"*{number}", "scale": "fp32"}
    signature |= dict.fromkeys(constants, "constexpr")
    whole = [*POINTERS, "queries", "outputs", "query_stride", "key_stride", "value_stride"]
    source = ASTSource(
        fn=attend,
        signature={name: signature[name] for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in whole},
    )
    made = compile(source, GPUTarget("cuda", capability, 32), {"num_warps": 4, "num_stages": 2, "enable_fp_fusion": True})
    print(made.asm["ptx"])


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3] == "look")

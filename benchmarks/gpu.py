"""What it costs to look on a GPU: the kernel with and without statistics, against the best of torch's own."""

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.attention import make_call
from benchmarks.side_by_side import CONSOLE, report
from kqv.attention.call import AttentionCall
from kqv.attention.relations import Tokens
from kqv.gpu import attention as gpu

BACKENDS = {
    "torch's FlashAttention": SDPBackend.FLASH_ATTENTION,
    "torch's cuDNN": SDPBackend.CUDNN_ATTENTION,
    "torch's memory-efficient kernel": SDPBackend.EFFICIENT_ATTENTION,
}
LENGTHS = (2048, 4096, 8192, 16384, 32768)
LONGEST = 131_072
ROUNDS = 25


@torch.inference_mode()
def run() -> None:
    """In bfloat16, 16 heads of 64 and of 128, both ways and looking back; then the longest sequence in one pass."""
    if not torch.cuda.is_available():
        CONSOLE.print("The benchmark gpu needs a GPU, and there is none here: nothing was measured.")
        return
    CONSOLE.print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for width in (64, 128):
        for is_causal in (False, True):
            for length in LENGTHS:
                compare(length, width, is_causal)
    call, tokens = make(LONGEST, 64, is_causal=True)
    torch.cuda.reset_peak_memory_stats()
    for seconds in timed({"kqv": lambda: gpu.attend(call, tokens, [8])}, rounds=1).values():
        peak = torch.cuda.max_memory_allocated() / 1e9
        CONSOLE.print(f"{LONGEST} tokens in one pass, with all statistics: {seconds[0]:.3f} s, at most {peak:.2f} GB")


def make(length: int, width: int, *, is_causal: bool) -> tuple[AttentionCall, list[Tokens]]:
    """A call on random numbers, and what is known of its tokens."""
    packed = [torch.randn(length, 16, width, device="cuda", dtype=torch.bfloat16) for _ in "qkv"]
    ids = torch.randint(0, 2000, (length,), device="cuda")
    return make_call(packed, 1, length, is_causal), [Tokens(length, length, ids.device, ids=ids, special=ids == 0)]


def compare(length: int, width: int, is_causal: bool) -> None:
    """One table: each back end of torch that takes the call, and ours."""
    call, tokens = make(length, width, is_causal=is_causal)
    q, k, v = (tensor.transpose(0, 1)[None] for tensor in (call.q, call.keys[0], call.values[0]))

    def by(backend: SDPBackend) -> Callable[[], object]:
        def attend() -> object:
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(q, k, v, is_causal=is_causal)

        return attend

    torchs = timed({name: by(backend) for name, backend in BACKENDS.items()})
    ours = timed(
        {
            "kqv, the output alone": lambda: gpu.attend(call),
            "kqv, with all statistics": lambda: gpu.attend(call, tokens, [8]),
        }
    )
    ranked = dict(sorted(torchs.items(), key=lambda item: sorted(item[1])[len(item[1]) // 2]))
    look = "looking back" if is_causal else "looking both ways"
    CONSOLE.print(report(f"{length} tokens, 16 heads of {width}, {look}", ranked | ours))


def timed(rivals: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of each call by the GPU's own clock, in turn; without those that can't do it here."""
    able = {name: rival for name, rival in rivals.items() if can(rival)}
    times: dict[str, list[float]] = {name: [] for name in able}
    for _ in range(rounds):
        for name, rival in able.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in "ab")
            start.record()
            rival()
            end.record()
            torch.cuda.synchronize()
            times[name].append(start.elapsed_time(end) / 1000)
    return times


def can(rival: Callable[[], object]) -> bool:
    """Whether it runs at all; compiles it, and warms it up."""
    try:
        for _ in range(3):
            rival()
        torch.cuda.synchronize()
    except RuntimeError as error:
        CONSOLE.print(f"left out: {str(error).splitlines()[0]}")
        return False
    return True

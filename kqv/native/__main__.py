"""`python -m kqv.native`: compile the C part beforehand, for an image without a compiler that may run on another processor."""

import platform

import torch

from kqv.native.library import BUILT, MACHINES, compile_for, file_name


def main() -> None:
    """For every kind of processor that this one's machine code can run on."""
    kinds = MACHINES if platform.machine() in ("x86_64", "AMD64") else [torch.backends.cpu.get_cpu_capability()]
    BUILT.mkdir(exist_ok=True)
    for kind in kinds:
        compile_for(kind, BUILT / file_name(kind))
        print(f"compiled for {kind}")


if __name__ == "__main__":
    main()

"""How much memory a call takes at its worst, beyond what is there before it."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_mb(call: Callable[[], object]) -> float:
    """Megabytes (10⁶ bytes) of the process's resident memory at its peak, less those before the call. Linux alone tells."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before would otherwise serve this call, and not be counted
    REFERENCES.write_text("5")  # forgets the peak so far
    before = resident_kb("VmRSS")
    call()
    return (resident_kb("VmHWM") - before) * 1024 / 1e6


def resident_kb(name: str) -> int:
    [line] = [line for line in STATUS.read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1])

"""How much memory looking takes: the analysis against the plain pass, each in a Python process of its own."""

import ctypes
import gc
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch
from rich.table import Table

import kqv
from benchmarks.side_by_side import CONSOLE, Call
from kqv.config import ModelConfig
from kqv.transformer import Transformer

STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")
CASES = {
    "SmolLM2, 2,048 tokens": ("smollm2", 2048, 3),
    "SmolLM2, 8,192 tokens": ("smollm2", 8192, 3),
    "one layer of 12 heads, 32,768 tokens": ("one-layer", 32768, 1),
}
"""The model, the tokens, and how often each is measured."""


def peak_mb(call: Call) -> float:
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


def one_layer(context: int) -> kqv.Model:
    """An encoder of BERT's width, with one layer of 12 heads and random weights."""
    config = ModelConfig(
        architecture="encoder",
        encoder_layers=1,
        vocabulary_size=1000,
        context=context,
        d_model=768,
        num_heads=12,
        d_feed_forward=3072,
    )
    transformer = Transformer(config).requires_grad_(False).eval()
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return kqv.Model("one-layer", transformer, None, "random")


def run() -> None:
    """Peak memory beyond the loaded model, medians of some processes, and the seconds of the calls."""
    table = Table(
        "", "plain pass", "all diagnostics", "beyond it", title="Peak memory beyond the loaded model", title_justify="left"
    )
    for title, (model, tokens, times) in CASES.items():
        plain, looked = ([measured(model, pass_, tokens) for _ in range(times)] for pass_ in ("forward", "analyze"))
        peaks = [statistics.median(peak for peak, _ in found) for found in (plain, looked)]
        seconds = [statistics.median(took for _, took in found) for found in (plain, looked)]
        shown = [f"{peak:.0f} MB, {took:.1f} s" for peak, took in zip(peaks, seconds, strict=True)]
        table.add_row(title, *shown, f"{peaks[1] - peaks[0]:.0f} MB")
    CONSOLE.print(table)


def measured(model: str, pass_: str, tokens: int) -> tuple[float, float]:
    """Megabytes and seconds of one call in a new process."""
    command = [sys.executable, "-m", "benchmarks.memory", model, pass_, str(tokens)]
    peak, seconds = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(peak), float(seconds)


def measure(name: str, pass_: str, tokens: int) -> None:
    """Print both, for `measured`."""
    model = one_layer(tokens) if name == "one-layer" else kqv.load(name)
    ids = [torch.randint(model.config.vocabulary_size // 2, (tokens,)).tolist()]
    model.forward([ids[0][:16]])  # what is loaded once is no part of it
    passes: dict[str, Call] = {
        "forward": partial(model.forward, ids),
        "analyze": partial(model.analyze, ids, weights="none", outputs=()),
    }
    start = time.perf_counter()
    peak = peak_mb(passes[pass_])
    print(peak, time.perf_counter() - start)


if __name__ == "__main__":
    measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))

"""What attention costs as sequences grow: of all pairs of tokens, by torch's fused kernel, by the reference, and by the C part with
all statistics; and of fewer pairs."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from benchmarks.attention import make_call
from benchmarks.memory import peak_mb
from benchmarks.side_by_side import CONSOLE, side_by_side
from kqv import Linformer, Longformer, Performer
from kqv.attention.dense import dense
from kqv.attention.fused import fused
from kqv.attention.masks import Causal
from kqv.attention.packed import observe_packed
from kqv.attention.relations import Tokens

LENGTHS = (2048, 4096, 8192, 16384)
HEADS, WIDTH = 4, 64
DENSE_LIMIT = 4096
"""The reference keeps several maps: 16,384 tokens would take 17 GB."""

FIGURES = Path(__file__).with_name("variants.json")
"""What the last run found, for docs/pictures.py."""

Attention = Callable[[Tensor, Tensor, Tensor], object]


def rivals(n: int) -> Mapping[str, Attention]:
    """The attentions for so many tokens; Linformer's projections are given, as a trained one has them."""
    e, f = Linformer(rank=256).projections(HEADS, n)
    reference = {"dense": dense} if n <= DENSE_LIMIT else {}
    return {
        "sdpa": fused,
        **reference,
        "kqv, all diagnostics": partial(observe, Tokens(n, n, torch.device("cpu"), ids=torch.randint(2000, (n,)))),
        "longformer, window 512": Longformer(window=512),
        "longformer, dilated by 2, 8 global": Longformer(window=512, dilation=2, global_tokens=tuple(range(8))),
        "linformer, rank 256": Linformer(e=e, f=f),
        "performer, 256 features": Performer(features=256),
        "performer, causal": partial(Performer(features=256), mask=Causal()),
    }


def observe(tokens: Tokens, *given: Tensor) -> object:
    """Attention to all pairs of tokens, by the C part, with all that the diagnostics need."""
    call = make_call([tensor[0].transpose(0, 1).contiguous() for tensor in given], 1, tokens.queries, is_causal=False)
    return observe_packed(call, [tokens], [8])


@torch.inference_mode()
def run() -> None:
    """Seconds and peak memory at each length, and the exponents of n that fit them best."""
    times: dict[str, dict[int, float]] = defaultdict(dict)
    memory: dict[str, dict[int, float]] = defaultdict(dict)
    for n in LENGTHS:
        q, k, v = (torch.randn(1, HEADS, n, WIDTH) for _ in range(3))
        calls = {name: partial(rival, q, k, v) for name, rival in rivals(n).items()}
        for name, seconds in side_by_side(f"{n} tokens, {HEADS} heads of {WIDTH}", calls, rounds=3).items():
            times[name][n] = seconds
        for name, call in calls.items():
            memory[name][n] = peak_mb(call)
    FIGURES.write_text(json.dumps({"seconds": times, "megabytes": memory}, indent=1) + "\n", encoding="utf-8")
    CONSOLE.print(report("time", times, lambda seconds: f"{1000 * seconds:.0f} ms"))
    CONSOLE.print(report("peak memory", memory, lambda megabytes: f"{megabytes:.0f} MB"))


def exponent(figures: Mapping[int, float]) -> float:
    """The slope of the straight line through ln(figure) over ln(n), by least squares."""
    points = torch.tensor([[math.log(n), 1.0, math.log(figure)] for n, figure in figures.items()], dtype=torch.float64)
    return torch.linalg.lstsq(points[:, :2], points[:, 2:]).solution[0].item()


def report(title: str, figures: Mapping[str, Mapping[int, float]], show: Callable[[float], str]) -> Table:
    """A row a rival: its figure at each length, and the exponent."""
    table = Table("", *map(str, LENGTHS), "exponent", title=title, title_justify="left")
    for name, found in figures.items():
        table.add_row(name, *(show(found[n]) if n in found else "" for n in LENGTHS), f"{exponent(found):.2f}")
    return table

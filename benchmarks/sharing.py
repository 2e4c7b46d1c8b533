"""A small model beside a large one that always has work: how long who asks the small one waits for the large one's batches."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from typing import NamedTuple

from rich.progress import track
from rich.table import Table

from benchmarks.server import Server, serving
from benchmarks.side_by_side import CONSOLE
from service.cli.load import Load, Report, Target, mixed_bodies, offer

BOUNDS: dict[str, dict[str, int]] = {"as they are": {}, "no bound on a batch's seconds": {"max_batch_s": 3600}}
"""The settings to compare."""


class Shared(NamedTuple):
    """What came of both loads, which ran at the same time."""

    small: Report
    large: Report


def run(rounds: int = 3, seconds: float = 12.0) -> None:
    """MiniLM's sentences over 4 connections, SmolLM2's texts of 150 to 250 words over 16."""
    with ExitStack() as stack:
        servers = {name: stack.enter_context(serving("minilm,smollm2", **settings)) for name, settings in BOUNDS.items()}
        found: dict[str, list[Shared]] = {name: [] for name in servers}
        turns = list(itertools.product(range(rounds), servers))
        for _, name in track(turns, "two models share the device", console=CONSOLE, transient=True):
            found[name].append(asyncio.run(share(servers[name], seconds)))
    CONSOLE.print(report(found))


async def share(server: Server, seconds: float) -> Shared:
    """Both loads at once."""
    target = Target.parse(server.address)
    fields = {"weights": "none", "diagnostics": "none", "truncate": "right"}
    small = mixed_bodies(4, 28, fields | {"model": "minilm", "outputs": ["pooled"]})
    large = mixed_bodies(150, 250, fields | {"model": "smollm2", "outputs": ["pooled"]})
    loads = ((small, Load(seconds, connections=4)), (large, Load(seconds, connections=16)))
    return Shared(*await asyncio.gather(*(offer(load, target, bodies) for bodies, load in loads)))


def report(found: Mapping[str, Sequence[Shared]]) -> Table:
    """The median over the rounds."""
    table = Table(
        "settings", "MiniLM, /s", "p50", "p99", "SmolLM2, /s", title="A small model beside a large one", title_justify="left"
    )
    for name, rounds in found.items():
        cells = [
            f"{median(each.small.successes_per_s for each in rounds):.1f}",
            *(f"{median((each.small.latency_ms or {})[rank] for each in rounds):.0f} ms" for rank in ("p50", "p99")),
            f"{median(each.large.successes_per_s for each in rounds):.2f}",
        ]
        table.add_row(name, *cells)
    return table

"""Timing rivals in turn, so that whatever else the machine does meets all of them."""

import statistics
import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import track
from rich.table import Table

CONSOLE = Console()
Call = Callable[[], object]


def side_by_side(title: str, rivals: Mapping[str, Call], rounds: int = 15, repeats: int = 1) -> dict[str, float]:
    """Seconds a call: the median over the rounds, each of which runs every rival `repeats` times, in turn.

    Prints a table with each rival's ratio to the first: the median of the rounds' own ratios, and their quartiles.
    """
    for rival in rivals.values():
        rival()  # warm up: allocations, threads, caches
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in track(range(rounds), description=title, console=CONSOLE, transient=True):
        for name, rival in rivals.items():
            start = time.perf_counter()
            for _ in range(repeats):
                rival()
            times[name].append((time.perf_counter() - start) / repeats)
    CONSOLE.print(report(title, times))
    return {name: statistics.median(values) for name, values in times.items()}


def claim(what: str, found: float, asked: str) -> None:
    """Print a figure, and what it should be."""
    CONSOLE.print(f"{what}: {found:.2f}; asked: {asked}")


def report(title: str, times: Mapping[str, list[float]]) -> Table:
    """Median times and ratios to the first rival, round by round."""
    table = Table("", "median", "times the first", "quartiles", title=title, title_justify="left")
    first = next(iter(times.values()))
    for name, values in times.items():
        ratios = [value / base for value, base in zip(values, first, strict=True)]
        lower, middle, upper = statistics.quantiles(ratios, n=4)
        table.add_row(name, f"{1000 * statistics.median(values):.2f} ms", f"{middle:.2f}", f"{lower:.2f} to {upper:.2f}")
    return table

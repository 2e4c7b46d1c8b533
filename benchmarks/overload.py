"""Three times what the server can do: it says no to two thirds, and does as much for the rest as without the crowd."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.table import Table

from benchmarks.server import Server, serving
from benchmarks.side_by_side import CONSOLE
from service.cli.bench import told
from service.cli.load import Load, Report, Target, mixed_bodies, offer

TOKENS = 24
"""Of a sentence of 4 to 28 words, on average."""
ALLOWED = {"200", "429", "503"}


@dataclass(frozen=True)
class Overload:
    """What came of it."""

    best: Report
    """As much as it can do: as many connections as give it full batches, each waiting for its answer."""
    crowded: Report
    memory_mb: list[float]
    """Every second while it was crowded."""
    waiting_tokens: int
    """That may wait."""

    @property
    def goodput(self) -> float:
        """As a share of the best."""
        return self.crowded.successes_per_s / self.best.successes_per_s

    @property
    def full_queue_s(self) -> float:
        """How long those wait for whom there was just room, at the speed of the best."""
        return self.waiting_tokens / TOKENS / self.best.successes_per_s

    @property
    def refused_otherwise(self) -> dict[str, int]:
        """Outcomes that there may not be."""
        return {outcome: count for outcome, count in self.crowded.outcomes.items() if outcome not in ALLOWED}

    @property
    def growth_mb(self) -> float:
        """Of the memory, from the first half's peak to the second's."""
        middle = len(self.memory_mb) // 2
        return max(self.memory_mb[middle:]) - max(self.memory_mb[:middle])


def run(seconds: float = 120.0, best_seconds: float = 20.0, max_waiting_tokens: int = 1 << 15) -> None:
    """MiniLM, one sentence a request, at random times."""
    with serving(max_waiting_tokens=max_waiting_tokens) as server:
        found = overload(server, seconds, best_seconds, words=(4, 28), waiting_tokens=max_waiting_tokens)
    CONSOLE.print(report(found))


def overload(
    server: Server, seconds: float, best_seconds: float, words: tuple[int, int], waiting_tokens: int, times: float = 3.0
) -> Overload:
    """First as much as it can do, then `times` as much."""
    target = Target.parse(server.address)
    bodies = mixed_bodies(*words, {"weights": "none", "outputs": ["pooled"], "truncate": "right"})
    with told(best_seconds) as tell:
        best = asyncio.run(offer(Load(best_seconds, connections=64), target, bodies, tell))
    crowd = Load(seconds, rate=times * best.successes_per_s, is_poisson=True, warm_up_s=min(5.0, seconds))
    with told(seconds) as tell, watched(server) as memory_mb:
        return Overload(best, asyncio.run(offer(crowd, target, bodies, tell)), memory_mb, waiting_tokens)


@contextmanager
def watched(server: Server, every_s: float = 1.0) -> Iterator[list[float]]:
    """The server's memory, in MB, as it goes on."""
    memory_mb, over = [server.memory_mb], threading.Event()

    def watch() -> None:
        while not over.wait(every_s):
            memory_mb.append(server.memory_mb)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield memory_mb
    finally:
        over.set()
        thread.join()
        memory_mb.append(server.memory_mb)


def report(found: Overload) -> Table:
    """Each claim and its figure."""
    assert found.best.latency_ms and found.crowded.latency_ms
    rows = {
        "at its best": f"{found.best.successes_per_s:.1f}/s",
        "offered": f"{found.crowded.requests / found.crowded.seconds:.1f}/s for {found.crowded.seconds:.0f} s",
        "answered well": f"{found.crowded.successes_per_s:.1f}/s, {found.goodput:.2f} of the best; asked: 0.90 or more",
        "outcomes": ", ".join(f"{count} × {outcome}" for outcome, count in found.crowded.outcomes.items()),
        "neither 200, 429 nor 503": f"{sum(found.refused_otherwise.values())}; asked: 0",
        "accepted": ", ".join(f"{name} {value:.0f} ms" for name, value in found.crowded.latency_ms.items()),
        "a full queue takes": f"about {found.full_queue_s:.1f} s; asked of p99: no more than that and two batches",
        "memory": f"{found.memory_mb[0]:.0f} MB, at most {max(found.memory_mb):.0f}",
        "its second half": f"{found.growth_mb:+.1f} MB; asked: flat",
        "the load was sent late by": f"{found.crowded.generator_late_ms:.0f} ms at worst",
    }
    table = Table(title="Overload", title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    return table

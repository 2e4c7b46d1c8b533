"""Half of what the server can do, with broken requests among it, for a long time: does its memory stay where it is?"""

import asyncio
import statistics

from benchmarks.breakages import broken_requests
from benchmarks.broken import send
from benchmarks.overload import watched
from benchmarks.server import Server, serving
from benchmarks.side_by_side import CONSOLE
from service.cli.bench import told
from service.cli.load import Load, Report, Target, mixed_bodies, offer, sentences

EVERY_S = 0.5
"""How often the memory is looked at. It goes up and down by hundreds of MB with the answers under way."""


def run(minutes: float = 20.0, warm_up_minutes: float = 2.0) -> None:
    """MiniLM, sentences of all lengths with all weights, two of three beside them broken in some way."""
    with serving(log_level="ERROR") as server:
        report, memory_mb = asyncio.run(soak(server, 60 * minutes, 60 * warm_up_minutes))
    lowest = lows(memory_mb)
    outcomes = ", ".join(f"{count} × {outcome}" for outcome, count in report.outcomes.items())
    CONSOLE.print(f"Soak, {minutes:g} min: {report.successes_per_s:.1f}/s, {outcomes}")
    minutes_mb = ", ".join(f"{low:.0f}" for low in lowest)
    CONSOLE.print(f"memory {memory_mb[0]:.0f} MB after the warm-up, {memory_mb[-1]:.0f} at the end; least a minute: {minutes_mb}")
    lines = f"{growth(lowest):+.2f} MB a minute at rest, {60 / EVERY_S * growth(memory_mb):+.2f} with the answers under way"
    CONSOLE.print(f"{lines}; asked: +1 at most")


async def soak(server: Server, seconds: float, warm_up_s: float) -> tuple[Report, list[float]]:
    """What the good requests came to, and the memory from the end of the warm-up on, every `EVERY_S` seconds."""
    target = Target.parse(server.address)
    bodies = mixed_bodies(4, 120, {"weights": "full", "truncate": "right"})
    best = await offer(Load(5.0, connections=16), target, bodies)
    half = Load(seconds, rate=best.successes_per_s / 2, is_poisson=True, warm_up_s=warm_up_s)
    breaking = asyncio.create_task(keep_breaking(target))
    memory_mb: list[float] = []
    try:
        with told(seconds) as tell, watched(server, EVERY_S) as everything:
            report = await offer(half, target, bodies, tell)
            memory_mb = everything[int(warm_up_s / EVERY_S) :]
    finally:
        breaking.cancel()
    return report, memory_mb


async def keep_breaking(target: Target) -> None:
    """Twenty broken requests a second, until cancelled."""
    for _, pieces in broken_requests(target, "minilm", sentences(64, 4, 28)):
        await send(target, pieces)
        await asyncio.sleep(0.05)


def lows(memory_mb: list[float]) -> list[float]:
    """The least of each minute: what stays when the answers under way have gone."""
    looks = round(60 / EVERY_S)
    return [min(memory_mb[start : start + looks]) for start in range(0, len(memory_mb), looks)]


def growth(memory_mb: list[float]) -> float:
    """MB from one look to the next, by least squares; NaN of one look."""
    return statistics.linear_regression(range(len(memory_mb)), memory_mb).slope if len(memory_mb) > 1 else float("nan")

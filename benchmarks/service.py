"""kqv over HTTP against other servers of the same model, and against itself in process: in turns, by medians and ratios."""

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable, Sequence

from rich.progress import track
from rich.table import Table

import kqv
from benchmarks.rivals import EMBEDDERS, SHOWING_ALL, Rival, Running, running
from benchmarks.side_by_side import CONSOLE
from service.load import Load, Report, mixed_bodies, nearest_rank, offer, sentences

WORDS = 4, 28
"""Of a sentence; 7 to 41 tokens."""

Measure = Callable[[int, float], Report]
"""Of so many connections, over so many seconds."""


def compare(rounds: int = 5, seconds: float = 5.0, levels: Sequence[int] = (1, 16, 64)) -> None:
    """Embeddings and diagnostics: one sentence a request, `weights: none`."""
    model = kqv.load("minilm")
    measures: dict[str, Measure] = {"kqv, in process": lambda connections, seconds: in_process(model, connections, seconds)}
    contest("One sentence a request", EMBEDDERS, measures, rounds, seconds, levels)


def compare_full(rounds: int = 5, seconds: float = 5.0, levels: Sequence[int] = (1, 16)) -> None:
    """The same with all weights in the answer."""
    contest("One sentence a request, all weights", SHOWING_ALL, {}, rounds, seconds, levels)


def contest(
    title: str, rivals: dict[str, Rival], measures: dict[str, Measure], rounds: int, seconds: float, levels: Sequence[int]
) -> None:
    """Every rival's turn in every round at every level; prints a table a level."""
    with CONSOLE.status("starting the rivals"), running(rivals) as started:
        measures = {name: over_http(each) for name, each in started.items()} | measures
        for level in levels:
            reports: dict[str, list[Report]] = {name: [] for name in measures}
            turns = list(itertools.product(range(rounds), measures))
            for _, name in track(turns, f"{title}, {level} at once", console=CONSOLE, transient=True):
                reports[name].append(measures[name](level, seconds))
            CONSOLE.print(standings(f"{title}, {level} at once", reports))


def over_http(rival: Running) -> Measure:
    """The rival's turn: awake for as long as it is asked."""

    def measure(connections: int, seconds: float) -> Report:
        bodies = mixed_bodies(*WORDS, rival.rival.fields)
        with rival.awake():
            return asyncio.run(offer(Load(seconds, connections, warm_up_s=min(1.0, seconds)), rival.target, bodies))

    return measure


def in_process(model: kqv.Model, connections: int, seconds: float) -> Report:
    """`model.analyze` on the same sentences, as many together as there would be connections."""
    texts = itertools.cycle(sentences(256, *WORDS))
    times: list[float] = []
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        began = time.perf_counter()
        model.analyze(list(itertools.islice(texts, connections)), weights="none", outputs=("pooled",))
        times.append(time.perf_counter() - began)
    elapsed, done = time.perf_counter() - started, len(times) * connections
    latency = {"p50": 1e3 * nearest_rank(sorted(times), 0.5)}
    return Report(elapsed, done, {"200": done}, done / elapsed, latency, 0.0)


def standings(title: str, reports: dict[str, list[Report]]) -> Table:
    """Medians, and how many times as fast kqv is: the median of the rounds' own ratios, and their quartiles."""
    table = Table("", "a second", "p50", "kqv / it", "quartiles", "failures", title=title, title_justify="left")
    table.columns[0].no_wrap = True
    first = next(iter(reports.values()))
    for name, rounds in reports.items():
        ratios = sorted(ours.successes_per_s / theirs.successes_per_s for ours, theirs in zip(first, rounds, strict=True))
        p50 = statistics.median(report.latency_ms["p50"] for report in rounds if report.latency_ms)
        rate = statistics.median(report.successes_per_s for report in rounds)
        table.add_row(name, f"{rate:.1f}", f"{p50:.1f} ms", f"{statistics.median(ratios):.2f}", spread(ratios), others(rounds))
    return table


def spread(ordered: Sequence[float]) -> str:
    if len(ordered) < 2:
        return "–"
    lower, _, upper = statistics.quantiles(ordered, n=4)
    return f"{lower:.2f} to {upper:.2f}"


def others(rounds: Sequence[Report]) -> str:
    """All that was no success."""
    found = {outcome for report in rounds for outcome in report.outcomes if outcome != "200"}
    return ", ".join(f"{sum(report.outcomes.get(outcome, 0) for report in rounds)} × {outcome}" for outcome in sorted(found))

"""kqv over HTTP against other servers of the same model, and against itself in process: in turns, by medians and ratios."""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from statistics import median as middle
from statistics import quantiles

from rich.progress import track
from rich.table import Table

import kqv
from benchmarks.rivals import EMBEDDERS, SHOWING_ALL, Rival, Running, running
from benchmarks.side_by_side import CONSOLE, claim
from service.cli.load import Load, Report, mixed_bodies, nearest_rank, offer, sentences

WORDS = 4, 28
"""Of a sentence; 7 to 41 tokens."""

Reports = dict[str, list[Report]]
"""Of each rival, one a round."""
Measure = Callable[[int, float], Report]
"""Of so many connections, over so many seconds."""


def compare(rounds: int = 5, seconds: float = 5.0, levels: Sequence[int] = (1, 16, 64)) -> None:
    """Embeddings and diagnostics: one sentence a request, `weights: none`."""
    model = kqv.load("minilm")
    measures: dict[str, Measure] = {"kqv, in process": lambda connections, seconds: in_process(model, connections, seconds)}
    found = contest("One sentence a request", EMBEDDERS, measures, rounds, seconds, levels)
    ours, infinity, inside = "kqv, all diagnostics", "infinity-emb, no attention", "kqv, in process"
    alone, crowd = found[min(levels)], found[max(levels)]
    claim(f"{max(levels)} at once, in times of infinity-emb", middle(ratios(crowd, ours, infinity)), "2.5 or more")
    claim(f"{max(levels)} at once, as a share of in process", middle(ratios(crowd, ours, inside)), "0.80 or more")
    claim(f"p50 of {min(levels)}, in times of in process", middle(ratios(alone, ours, inside, median_ms)), "1.15 or less")


def compare_full(rounds: int = 5, seconds: float = 5.0, levels: Sequence[int] = (1, 16)) -> None:
    """The same with all weights in the answer."""
    found = contest("One sentence a request, all weights", SHOWING_ALL, {}, rounds, seconds, levels)
    for level, reports in found.items():
        for form, asked in (("JSON", "8"), ("safetensors", "15")):
            times = middle(ratios(reports, f"kqv, {form}", "plain FastAPI, JSON"))
            claim(f"{level} at once, {form}, in times of the plain FastAPI", times, f"{asked} or more")


def contest(
    title: str, rivals: dict[str, Rival], measures: dict[str, Measure], rounds: int, seconds: float, levels: Sequence[int]
) -> dict[int, Reports]:
    """Every rival's turn in every round at every level, whose reports are returned; prints a table a level."""
    found: dict[int, Reports] = {}
    with CONSOLE.status("starting the rivals"), running(rivals) as started:
        measures = {name: over_http(each) for name, each in started.items()} | measures
        for level in levels:
            reports = found[level] = {name: [] for name in measures}
            turns = list(itertools.product(range(rounds), measures))
            for _, name in track(turns, f"{title}, {level} at once", console=CONSOLE, transient=True):
                reports[name].append(measures[name](level, seconds))
            CONSOLE.print(standings(f"{title}, {level} at once", reports))
    return found


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


def a_second(report: Report) -> float:
    return report.successes_per_s


def median_ms(report: Report) -> float:
    return report.latency_ms["p50"] if report.latency_ms else float("nan")


def ratios(reports: Reports, ours: str, theirs: str, figure: Callable[[Report], float] = a_second) -> list[float]:
    """A figure of one in times of another's, round by round, in order of size."""
    return sorted(figure(our) / figure(their) for our, their in zip(reports[ours], reports[theirs], strict=True))


def standings(title: str, reports: Reports) -> Table:
    """Medians, and how many times as fast kqv is: the median of the rounds' own ratios, and their quartiles."""
    table = Table("", "a second", "p50", "kqv / it", "quartiles", "failures", title=title, title_justify="left")
    table.columns[0].no_wrap = True
    ours = next(iter(reports))
    for name, rounds in reports.items():
        times = ratios(reports, ours, name)
        p50, rate = middle(map(median_ms, rounds)), middle(map(a_second, rounds))
        table.add_row(name, f"{rate:.1f}", f"{p50:.1f} ms", f"{middle(times):.2f}", spread(times), others(rounds))
    return table


def spread(ordered: Sequence[float]) -> str:
    if len(ordered) < 2:
        return "–"
    lower, _, upper = quantiles(ordered, n=4)
    return f"{lower:.2f} to {upper:.2f}"


def others(rounds: Sequence[Report]) -> str:
    """All that was no success."""
    found = {outcome for report in rounds for outcome in report.outcomes if outcome != "200"}
    return ", ".join(f"{sum(report.outcomes.get(outcome, 0) for report in rounds)} × {outcome}" for outcome in sorted(found))

"""`kqv bench`: a load of sentences, told as it runs, and what came of it."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from kqv.errors import InputError
from service.cli.load import Load, Report, Tally, Target, Tell, mixed_bodies, offer
from service.cli.tables import plain_table


def bench(load: Load, url: str, path: str, headers: Sequence[str], words: tuple[int, int], fields: str) -> Report:
    """Offer the load to a server, with progress on stderr. Raises `InputError` for arguments that make no request."""
    target = Target.parse(url, path, dict(parse_header(each) for each in headers))
    fewest, most = words
    if fewest > most:
        raise InputError(f"the shortest sentence has {fewest} words, and the longest {most}: --fewest must not be above --most")
    bodies = mixed_bodies(fewest, most, parse_fields(fields))
    with told(load.seconds) as tell:
        return asyncio.run(offer(load, target, bodies, tell))


def parse_header(given: str) -> tuple[str, str]:
    """The name and the value. Raises `InputError` for what has no colon."""
    name, colon, value = given.partition(":")
    if not colon:
        raise InputError(f"{given!r} is no header; one is written 'Name: value'")
    return name.strip(), value.strip()


def parse_fields(given: str) -> dict[str, Any]:
    """The JSON object. Raises `InputError` for anything else."""
    try:
        fields = json.loads(given)
    except json.JSONDecodeError as error:
        raise InputError(f"--ask is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InputError('--ask is a JSON object, such as {"weights": "none"}')
    return fields


@contextmanager
def told(seconds: float) -> Iterator[Tell]:
    """Tell on stderr how far a load is: as a bar on a terminal, as a line at each quarter elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield each_quarter(console, seconds)
        return
    with Progress(BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"), console=console, transient=True) as bar:
        task = bar.add_task("warming up", total=seconds)
        yield lambda elapsed, tally: bar.update(task, completed=elapsed, description=so_far(tally))


def each_quarter(console: Console, seconds: float) -> Tell:
    """Progress for a log: a line when another quarter is over."""
    last = 0

    def tell(elapsed: float, tally: Tally) -> None:
        nonlocal last
        quarter = min(4, int(4 * elapsed / seconds))
        if quarter > last:
            last = quarter
            console.print(f"{elapsed:.1f} of {seconds:g} s: {so_far(tally)}", highlight=False, soft_wrap=True)

    return tell


def so_far(tally: Tally) -> str:
    return ", ".join(f"{count} × {outcome}" for outcome, count in sorted(tally.outcomes.items())) or "no answer yet"


def report_table(report: Report) -> Table:
    """The report for a person."""
    table = plain_table("", "")
    table.show_header = False
    table.add_row("answered well", f"{report.successes_per_s:.1f}/s over {report.seconds:.1f} s")
    for name, value in (report.latency_ms or {}).items():
        table.add_row(name, f"{value:.1f} ms")
    for outcome, count in report.outcomes.items():
        table.add_row(outcome, f"{count} of {report.requests}")
    table.add_row("sent late by", f"{report.generator_late_ms:.1f} ms at worst")
    return table

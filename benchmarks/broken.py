"""Broken requests beside good ones: bodies cut, slow or of another length than they say, hang-ups, fuzzed JSON, no HTTP at all.

Each gets an answer that blames the client, or none; every good one gets the right answer all the while.
"""

import asyncio
import contextlib
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.progress import Progress
from rich.table import Table

from benchmarks.breakages import HANG_UP, Pieces, broken_requests
from benchmarks.server import serving
from benchmarks.side_by_side import CONSOLE
from service.cli.load import Sample, Target, closed_loop, sentences

PATIENCE_S = 120.0
"""How long clients wait for an answer: longer than the server's own deadlines, so that it is heard."""


@dataclass
class Breakage:
    """What came of the broken requests, by kind and outcome, and of the good ones."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    good: int = 0
    wrong: list[str] = field(default_factory=list)
    """What good requests got in place of their answers."""

    @property
    def blamed_on_the_server(self) -> dict[str, int]:
        """Broken requests that were answered as if the server were at fault, or not in time."""
        found = {f"{kind}: {outcome}": count for kind, each in self.outcomes.items() for outcome, count in each.items()}
        return {name: count for name, count in found.items() if name.split(": ")[1].startswith(("5", "no answer"))}


def run(count: int = 10_000) -> None:
    """Against MiniLM."""
    with serving(log_level="ERROR") as server:
        with Progress(console=CONSOLE, transient=True) as progress:
            task = progress.add_task("Broken requests", total=count)
            found = asyncio.run(
                break_and_ask(server.address, "minilm", sentences(64, 4, 28), count, lambda: progress.advance(task))
            )
        grown = server.memory_mb
    CONSOLE.print(report(found))
    CONSOLE.print(f"blamed on the server: {found.blamed_on_the_server or 'none'} (asked: none)")
    CONSOLE.print(
        f"{found.good} good requests beside them, {len(found.wrong)} answered wrongly (asked: 0); memory {grown:.0f} MB at the end"
    )


async def break_and_ask(
    address: str, model: str, texts: Sequence[str], count: int, advance: Callable[[], object] = lambda: None, clients: int = 16
) -> Breakage:
    """So many broken requests by so many clients, beside four that ask for these texts again and again."""
    target, found = replace(Target.parse(address), timeout_s=PATIENCE_S), Breakage()
    right = await right_answers(target, texts)
    broken = itertools.islice(broken_requests(target, model, texts), count)
    left = clients

    def note(sample: Sample) -> None:
        found.good += 1
        if problem := difference(sample, right[sample.sent]):
            found.wrong.append(problem)

    async def client() -> None:
        nonlocal left
        for kind, pieces in broken:
            found.outcomes.setdefault(kind, Counter())[await send(target, pieces)] += 1
            advance()
        left -= 1

    async with asyncio.TaskGroup() as group:
        group.create_task(closed_loop(target, itertools.cycle(right), 4, note, lambda: left > 0))
        for _ in range(clients):
            group.create_task(client())
    return found


async def right_answers(target: Target, texts: Sequence[str]) -> dict[bytes, Any]:
    """By request: what the server answers to each alone, while nobody disturbs it."""
    fields = {"weights": "none", "diagnostics": ["entropy"], "outputs": ["pooled"], "truncate": "right"}
    samples: list[Sample] = []
    bodies = (json.dumps(fields | {"input": text}).encode() for text in texts)
    await closed_loop(target, bodies, 1, samples.append, lambda: True)
    return {sample.sent: json.loads(sample.answer.content)["results"][0] for sample in samples if sample.answer}


def difference(sample: Sample, right: Any) -> str:
    """How an answer differs from the right one; nothing where it doesn't, but for the order of sums in another batch."""
    if sample.outcome != "200" or sample.answer is None:
        return sample.outcome
    [result] = json.loads(sample.answer.content)["results"]
    if result["tokens"] != right["tokens"]:
        return "another text's answer"
    numbers = zip(result["pooled"], right["pooled"], strict=True)
    return "" if all(abs(one - other) < 1e-4 for one, other in numbers) else "other numbers"


async def send(target: Target, pieces: Pieces) -> str:
    """What came of it: the first status, that the server closed, or that the client did."""
    try:
        async with connected(target) as (reader, writer):
            for piece in pieces:
                if piece == HANG_UP:
                    return "hung up"
                if isinstance(piece, bytes):
                    writer.write(piece)
                    await writer.drain()
                else:
                    await asyncio.sleep(piece)
            line = await asyncio.wait_for(reader.readline(), PATIENCE_S)
            return line.split()[1].decode() if line.startswith(b"HTTP/1.1 ") else "closed"
    except TimeoutError:
        return "no answer"
    except ConnectionError:
        return "closed"


@contextlib.asynccontextmanager
async def connected(target: Target) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(target.host, target.port)
    try:
        yield reader, writer
    finally:
        writer.close()


def report(found: Breakage) -> Table:
    """Each kind, and what it was answered."""
    table = Table("broken how", "outcomes", title="Broken requests", title_justify="left")
    for kind, outcomes in found.outcomes.items():
        table.add_row(kind, ", ".join(f"{count} × {outcome}" for outcome, count in outcomes.most_common()))
    return table

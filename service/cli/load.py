"""Load for a running server: so many connections at once, or so many requests a second whatever comes back.

Closed loop: each connection sends its next request when it has its answer, so a slow server is asked less. Open loop: requests
come when they are due, as those of many independent callers do, and their time counts from then on: whatever keeps one from being
sent is part of it, or a server that stalls would look better than it is (coordinated omission).

Requests are sent by asyncio's transports and answers read by httptools, at 0.02 ms of CPU each where connections are busy; httpx
needs 1.6 ms, and would be what is measured.
"""

import asyncio
import itertools
import math
import pydoc_data.topics
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import httptools
import orjson

from kqv.errors import InputError

MOST_CONNECTIONS = 2000
"""What the open loop opens; a request that finds them all taken waits, and that counts."""


@dataclass(frozen=True)
class Target:
    """Where requests go, and what is the same in all of them."""

    host: str
    port: int
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    is_tls: bool = False
    timeout_s: float = 60.0

    @classmethod
    def parse(cls, url: str, path: str = "/v1/analyze", headers: Mapping[str, str] | None = None) -> "Target":
        """The route `path` of the server at `url`; raises `InputError` where that is no HTTP address."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{url} is no address of a server; http://127.0.0.1:8000 would be one")
        is_tls = parts.scheme == "https"
        given = {"Host": parts.netloc, "Content-Type": "application/json", **(headers or {})}
        return cls(
            parts.hostname, parts.port or (443 if is_tls else 80), parts.path.rstrip("/") + path, tuple(given.items()), is_tls
        )


class Answer(NamedTuple):
    """What came back."""

    status: int
    content: bytes


class RemoteProtocolError(Exception):
    """What came back is no whole answer."""


class Connection(asyncio.Protocol):
    """One connection, opened when it is needed and kept while the server keeps it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        lines = [f"POST {target.path} HTTP/1.1", *(f"{name}: {value}" for name, value in target.headers), "Content-Length: "]
        self._head = "\r\n".join(lines).encode("latin-1")
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        """The one that is awaited."""
        self._is_heard = False
        """Whether something of it has come."""

    async def exchange(self, body: bytes) -> Answer:
        """POST the body; raises `OSError`, `TimeoutError` or `RemoteProtocolError` where no whole answer comes.

        A kept connection that closes before a byte of the answer may have been closed for its long rest just as it was used again;
        then the body goes once more over a new one (RFC 9112, 9.3.1).
        """
        try:
            async with asyncio.timeout(self._target.timeout_s):
                is_kept = self._transport is not None
                try:
                    return await self._post(body)
                except RemoteProtocolError:
                    if not is_kept or self._is_heard:
                        raise
                    return await self._post(body)
        except BaseException:
            self.close()
            raise

    async def _post(self, body: bytes) -> Answer:
        loop, target = asyncio.get_running_loop(), self._target
        if self._transport is None:
            await loop.create_connection(lambda: self, target.host, target.port, ssl=target.is_tls or None)
        assert self._transport is not None
        self._answer, self._is_heard = loop.create_future(), False
        self._transport.write(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
        try:
            return await self._answer
        finally:
            self._answer = None  # or each idle connection would hold its last answer, of tens of megabytes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._parser = cast(asyncio.Transport, transport), httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self._is_heard = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(str(error))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail("closed without a whole answer")

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        answer, self._parts = Answer(self._parser.get_status_code(), b"".join(self._parts)), []
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)
        if not self._parser.should_keep_alive():
            self.close()

    def _fail(self, why: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(RemoteProtocolError(why))

    def close(self) -> None:
        """Close it, if it is open; the next exchange opens it again."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None


class Sample(NamedTuple):
    """One request and what became of it; times in seconds on the monotonic clock."""

    sent: bytes
    answer: Answer | None
    error: str
    due: float
    began: float
    ended: float

    @property
    def outcome(self) -> str:
        """The status, or what happened instead."""
        return str(self.answer.status) if self.answer else self.error

    @property
    def is_success(self) -> bool:
        return self.answer is not None and 200 <= self.answer.status < 300


Note = Callable[[Sample], None]


async def ask(connection: Connection, body: bytes, due: float | None = None) -> Sample:
    """One request over the connection; never raises for what the server does."""
    began = time.monotonic()
    answer, error = None, ""
    try:
        answer = await connection.exchange(body)
    except (OSError, RemoteProtocolError) as failure:  # TimeoutError is an OSError
        error = type(failure).__name__
    return Sample(body, answer, error, began if due is None else due, began, time.monotonic())


async def closed_loop(target: Target, bodies: Iterator[bytes], connections: int, note: Note, go_on: Callable[[], bool]) -> None:
    """Ask over so many connections, each as soon as it has its answer, while `go_on` says so and bodies last."""

    async def client() -> None:
        connection = Connection(target)
        while go_on() and (body := next(bodies, None)) is not None:
            note(await ask(connection, body))
        connection.close()

    async with asyncio.TaskGroup() as clients:
        for _ in range(connections):
            clients.create_task(client())


async def open_loop(target: Target, bodies: Iterator[bytes], arrivals: Iterable[float], note: Note) -> None:
    """Ask at the given times, in seconds from now, over as many connections as that takes; waits for the last answer."""
    idle: list[Connection] = []
    places = asyncio.Semaphore(MOST_CONNECTIONS)

    async def arrive(body: bytes, due: float) -> None:
        async with places:
            connection = idle.pop() if idle else Connection(target)
            note(await ask(connection, body, due))
            idle.append(connection)

    start = time.monotonic()
    async with asyncio.TaskGroup() as requests:
        for offset, body in zip(arrivals, bodies, strict=False):
            await asyncio.sleep(max(0.0, start + offset - time.monotonic()))
            requests.create_task(arrive(body, start + offset))
    for connection in idle:
        connection.close()


def steady(rate: float, seconds: float) -> Iterator[float]:
    """When requests are due that come at a constant rate."""
    return (index / rate for index in range(round(rate * seconds)))


def poisson(rate: float, seconds: float, seed: int = 0) -> Iterator[float]:
    """When requests are due that come independently of one another: gaps are exponential, and the same in every run."""
    draw = random.Random(seed)
    gaps = (draw.expovariate(rate) for _ in itertools.count())
    return itertools.takewhile(lambda due: due < seconds, itertools.accumulate(gaps))


@dataclass
class Tally:
    """What is kept of the samples: counts by outcome, and the exact time of each success."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    late_s: float = 0.0
    """By how much the load generator was late, at worst; near the latencies, it is what was measured."""

    def note(self, sample: Sample) -> None:
        self.outcomes[sample.outcome] += 1
        self.late_s = max(self.late_s, sample.began - sample.due)
        if sample.is_success:
            self.seconds.append(sample.ended - sample.due)

    def report(self, elapsed_s: float) -> "Report":
        """In numbers, over so many seconds."""
        times = sorted(self.seconds)
        return Report(
            seconds=elapsed_s,
            requests=self.outcomes.total(),
            outcomes=dict(sorted(self.outcomes.items())),
            successes_per_s=len(times) / elapsed_s,
            latency_ms={name: 1e3 * nearest_rank(times, share) for name, share in PERCENTILES.items()} if times else None,
            generator_late_ms=1e3 * self.late_s,
        )


PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def nearest_rank(ordered: Sequence[float], share: float) -> float:
    """The least value that so large a share of them doesn't exceed: one that was measured.

    >>> nearest_rank([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    """
    return ordered[max(1, math.ceil(share * len(ordered))) - 1]


@dataclass(frozen=True)
class Report:
    """How a server did under a load."""

    seconds: float
    requests: int
    outcomes: dict[str, int]
    """How many by status, or by what happened instead of an answer."""
    successes_per_s: float
    latency_ms: dict[str, float] | None
    """Of the successes; None without one."""
    generator_late_ms: float


@dataclass(frozen=True)
class Load:
    """What to offer: `connections` in a closed loop, or `rate` requests a second in an open one."""

    seconds: float
    connections: int = 16
    rate: float | None = None
    is_poisson: bool = False
    warm_up_s: float = 1.0


Tell = Callable[[float, Tally], None]
"""Hears how far a load is, in seconds, and what came of it so far."""


async def offer(load: Load, target: Target, bodies: Iterator[bytes], tell: Tell | None = None) -> Report:
    """Offer the load, after a warm-up that doesn't count; `tell` is called a few times a second.

    What is counted are requests that began within those seconds; the last of them end a little later.
    """
    await run(load, load.warm_up_s, target, bodies, lambda sample: None)
    tally, started = Tally(), time.monotonic()
    telling = asyncio.create_task(keep_telling(tell, tally)) if tell else None
    try:
        await run(load, load.seconds, target, bodies, tally.note)
    finally:
        if telling:
            telling.cancel()
    return tally.report(time.monotonic() - started)


async def run(load: Load, seconds: float, target: Target, bodies: Iterator[bytes], note: Note) -> None:
    """The load for so long."""
    if load.rate:
        await open_loop(target, bodies, (poisson if load.is_poisson else steady)(load.rate, seconds), note)
    else:
        stop_at = time.monotonic() + seconds
        await closed_loop(target, bodies, load.connections, note, lambda: time.monotonic() < stop_at)


async def keep_telling(tell: Tell, tally: Tally) -> None:
    """Until cancelled."""
    started = time.monotonic()
    while True:
        await asyncio.sleep(0.25)
        tell(time.monotonic() - started, tally)


def mixed_bodies(fewest: int, most: int, fields: Mapping[str, Any]) -> Iterator[bytes]:
    """Requests of one sentence each, `fewest` to `most` words long, with these fields beside it; over and over."""
    return itertools.cycle([orjson.dumps({**fields, "input": text}) for text in sentences(256, fewest, most)])


def sentences(count: int, fewest: int, most: int) -> list[str]:
    """Stretches of `fewest` to `most` words of the standard library's own documentation, the same ones in every run."""
    draw = random.Random(0)
    words = " ".join(pydoc_data.topics.topics.values()).split()
    starts = [draw.randrange(len(words) - most) for _ in range(count)]
    return [" ".join(words[start : start + draw.randint(fewest, most)]) for start in starts]

"""The load generator: what it sends, when, and what it makes of what comes back; and `kqv bench`, which a person starts."""

import asyncio
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from typer.testing import CliRunner

from kqv.errors import InputError
from service.cli.commands import app
from service.cli.load import (
    Connection,
    Load,
    Sample,
    Tally,
    Target,
    ask,
    closed_loop,
    mixed_bodies,
    nearest_rank,
    offer,
    open_loop,
    poisson,
    steady,
)

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\no!\r\n3\r\nk!!\r\n0\r\n\r\n"
LAST = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"

pytestmark = pytest.mark.anyio


class Scripted:
    """A server that answers as its script says, over however many connections."""

    def __init__(self, *script: bytes, before: Callable[[], Awaitable[object]] | None = None) -> None:
        self.script = itertools.cycle(script or (GOOD,))
        self.before = before
        self.connections = 0
        self.bodies: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writer = writer
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.bodies.append(await reader.readexactly(length))
                if self.before:
                    await self.before()
                answer = next(self.script)
                writer.write(answer)
                if answer in (LAST, CUT, b""):
                    break
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def running(script: Scripted) -> AsyncIterator[Target]:
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    async with server:
        yield Target.parse(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")


async def test_a_connection_is_kept_until_the_server_closes_it() -> None:
    script = Scripted(GOOD, CHUNKED, LAST)
    async with running(script) as target:
        connection = Connection(target)
        samples = [await ask(connection, body) for body in (b"1", b"22", b"", b"4444")]
        connection.close()
    assert [sample.answer for sample in samples] == [(200, b"ok"), (200, b"o!k!!"), (429, b""), (200, b"ok")]
    assert script.bodies == [b"1", b"22", b"", b"4444"]
    assert script.connections == 2


async def test_a_connection_that_was_closed_while_it_rested_is_no_failure() -> None:
    script = Scripted(GOOD)
    async with running(script) as target:
        connection = Connection(target)
        first = await ask(connection, b"1")
        script.writer.close()
        await script.writer.wait_closed()
        await asyncio.sleep(0.05)
        second = await ask(connection, b"2")
        connection.close()
    assert (first.outcome, second.outcome, script.connections) == ("200", "200", 2)


async def test_a_connection_that_is_closed_as_it_is_used_again_is_no_failure() -> None:
    """The server hears the second request, and hangs up; so it does on a new connection, and then that is what it does."""
    script = Scripted(GOOD, b"", GOOD, b"", b"")
    async with running(script) as target:
        connection = Connection(target)
        samples = [await ask(connection, body) for body in (b"1", b"2", b"3")]
    assert [sample.outcome for sample in samples] == ["200", "200", "RemoteProtocolError"]
    assert script.bodies == [b"1", b"2", b"2", b"3", b"3"]


@pytest.mark.parametrize("script", [b"", CUT, b"nonsense\r\n\r\n"], ids=["hang-up", "cut", "not HTTP"])
async def test_what_is_no_whole_answer_is_an_outcome_of_its_own(script: bytes) -> None:
    async with running(Scripted(script)) as target:
        sample = await ask(Connection(target), b"{}")
    assert sample.answer is None
    assert sample.outcome == sample.error == "RemoteProtocolError"


async def test_an_answer_that_never_comes_is_given_up() -> None:
    async with running(Scripted(before=asyncio.Event().wait)) as target:
        sample = await ask(Connection(Target(target.host, target.port, "/", (("Host", "x"),), timeout_s=0.05)), b"{}")
    assert sample.outcome == "TimeoutError"


async def test_nobody_there_is_an_outcome_too() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        sample = await ask(Connection(Target.parse(f"http://127.0.0.1:{unused.getsockname()[1]}")), b"{}")
    assert sample.outcome == "ConnectionRefusedError"


async def test_a_closed_loop_has_so_many_under_way_and_no_more() -> None:
    most = under_way = 0

    async def work() -> None:
        nonlocal most, under_way
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1

    script, tally = Scripted(before=work), Tally()
    async with running(script) as target:
        await closed_loop(target, iter([b"{}"] * 60), 7, tally.note, lambda: True)
    assert tally.outcomes == {"200": 60}
    assert most == script.connections == 7


async def test_an_open_loop_counts_the_wait_that_a_slow_server_causes() -> None:
    """One at a time and 20 ms each, 100 a second for 0.3 s: the last is due at 0.29 s, and answered after 0.6 s at the earliest."""
    lock, tally = asyncio.Lock(), Tally()

    async def work() -> None:
        async with lock:
            await asyncio.sleep(0.02)

    async with running(Scripted(before=work)) as target:
        await open_loop(target, itertools.repeat(b"{}"), steady(100, 0.3), tally.note)
    assert tally.outcomes == {"200": 30}
    assert max(tally.seconds) >= 0.3


async def test_an_open_loop_counts_the_time_that_it_was_late_itself() -> None:
    tally = Tally()

    async def block() -> None:
        time.sleep(0.05)  # noqa: ASYNC251 -- this loop is the load generator's, too

    async with running(Scripted(before=block)) as target:
        await open_loop(target, itertools.repeat(b"{}"), steady(100, 0.1), tally.note)
    assert tally.late_s >= 0.04
    assert max(tally.seconds) >= 0.2


async def test_requests_come_when_they_are_due() -> None:
    samples: list[Sample] = []
    async with running(Scripted()) as target:
        await open_loop(target, itertools.repeat(b"{}"), [0.0, 0.01, 0.05], samples.append)
    dues = sorted(sample.due for sample in samples)
    assert [due - dues[0] for due in dues] == pytest.approx([0, 0.01, 0.05])
    assert all(sample.began >= sample.due for sample in samples)


def test_poisson_arrivals_have_their_rate_and_no_rhythm() -> None:
    arrivals = list(poisson(rate=50, seconds=100))
    gaps = [after - before for before, after in itertools.pairwise(arrivals)]
    assert len(arrivals) == pytest.approx(5000, rel=0.05)
    assert sum(gap > 1 / 50 for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.03)  # exp(−1)
    assert arrivals == list(poisson(rate=50, seconds=100))


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(1, 201)]
    assert [nearest_rank(values, share) for share in (0.5, 0.9, 0.99, 1.0)] == [100, 180, 198, 200]
    assert nearest_rank([7.0], 0.01) == 7


def test_lengths_are_mixed_within_their_bounds() -> None:
    bodies = [json.loads(body) for body in itertools.islice(mixed_bodies(4, 28, {"weights": "none"}), 256)]
    assert all(body["weights"] == "none" for body in bodies)
    assert {len(body["input"].split()) for body in bodies} == set(range(4, 29))


async def test_the_warm_up_is_not_counted() -> None:
    async with running(Scripted()) as target:
        report = await offer(Load(0.1, rate=100, warm_up_s=0.1), target, itertools.repeat(b"{}"))
    assert report.outcomes == {"200": 10}
    assert report.successes_per_s == pytest.approx(10 / report.seconds)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="no address"):
        Target.parse(url)


def test_bench_reports_what_a_real_server_does(client: httpx.Client) -> None:
    options = ["--seconds", "0.5", "--warm-up", "0", "--connections", "3", "--ask", '{"weights": "none", "truncate": "right"}']
    done = CliRunner().invoke(app, ["bench", str(client.base_url), *options, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["outcomes"] == {"200": report["requests"]}
    assert report["latency_ms"]["p50"] <= report["latency_ms"]["p90"] <= report["latency_ms"]["p99"] <= report["latency_ms"]["max"]
    assert "of 0.5 s: " in done.stderr
    table = CliRunner().invoke(app, ["bench", str(client.base_url), *options, "--rate", "20", "--poisson"])
    assert table.exit_code == 0
    assert [line.split()[0] for line in table.stdout.splitlines()] == ["answered", "p50", "p90", "p99", "max", "200", "sent"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--header", "Authorization"], "is no header"),
        (["--ask", "weights"], "--ask is not JSON"),
        (["--ask", "[]"], "--ask is a JSON object"),
        (["--fewest", "30"], "--fewest must not be above --most"),
    ],
)
def test_bench_says_what_is_wrong(options: list[str], complaint: str) -> None:
    done = CliRunner().invoke(app, ["bench", "http://127.0.0.1:1", *options])
    assert done.exit_code == 1
    assert complaint in done.stderr


def test_bench_fails_where_nothing_is_answered_well(client: httpx.Client) -> None:
    options = ["--seconds", "0.1", "--warm-up", "0", "--rate", "30", "--ask", '{"weights": "some"}']
    done = CliRunner().invoke(app, ["bench", str(client.base_url), *options])
    assert done.exit_code == 1
    assert "422" in done.stdout

"""Too many requests, and broken ones, beside good ones: what `make bench` does for minutes, here for seconds, on a tiny model."""

import asyncio
import itertools
from collections.abc import Iterator

import orjson
import pytest
import tiny

from benchmarks.breakages import KINDS
from benchmarks.broken import Breakage, break_and_ask
from benchmarks.server import Server, serving
from service.cli.load import Tally, Target, open_loop, sentences


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    tiny.bert(directory)
    with serving(directory, threads=1, max_waiting_tokens=1500, request_timeout_ms=110_000, log_level="ERROR") as running:
        yield running


def test_a_crowd_is_answered_or_told_to_come_back(server: Server) -> None:
    """A hundred at once, of twenty sequences each: 80,000 tokens, where 1500 may wait."""
    tally = Tally()
    body = orjson.dumps({"input": [[5] * 41] * 20, "weights": "none", "outputs": []})
    asyncio.run(open_loop(Target.parse(server.address), itertools.repeat(body), [0.0] * 100, tally.note))
    assert tally.outcomes.keys() == {"200", "429"}
    assert server.is_ready()


ANSWERS = {
    "slow body": {"200"},  # it is good in the end
    "no length": {"400"},
    "two lengths": {"400"},
    "nested": {"400"},
    "wrong values": {"404", "413", "422"},
    "another type": {"415"},
    "bomb": {"413"},
    "no deadline": {"422"},
    "no id": {"200", "431"},  # it is replaced, unless it is longer than headers may be
    "lying file": {"400"},
    "lying inference length": {"400"},
    "lying sizes": {"400"},
}


def test_broken_requests_are_their_senders_fault_and_harm_no_other(server: Server) -> None:
    found = asyncio.run(break_and_ask(server.address, "tiny", sentences(16, 4, 20), 10 * len(KINDS)))
    assert found.outcomes.keys() == KINDS.keys()
    assert found.blamed_on_the_server == {}
    assert found.wrong == []
    assert found.good >= 4
    answers = {kind: set(found.outcomes[kind]) for kind in ANSWERS}
    assert all(answers[kind] <= expected for kind, expected in ANSWERS.items()), answers


def test_what_is_blamed_on_the_server_is_told() -> None:
    outcomes = {"fuzzed": {"422": 3, "500": 1}, "slow body": {"no answer": 2}, "no http": {"closed": 1}}
    assert Breakage(outcomes).blamed_on_the_server == {"fuzzed: 500": 1, "slow body: no answer": 2}

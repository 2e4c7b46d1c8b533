"""A tiny model, and a client of a server that has it."""

from collections.abc import Iterator

import httpx
import pytest
import tiny
from serving import listening, make_app

import kqv


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> kqv.Model:
    """3 layers of 5 heads, width 35, 41 tokens of context, a vocabulary of 97."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    tiny.bert(directory)
    return kqv.load(directory)


@pytest.fixture(scope="session")
def client(model: kqv.Model) -> Iterator[httpx.Client]:
    """A client of a real server with small limits, shared by all the tests that leave it as it was."""
    app = make_app(model, max_body_bytes=200_000, max_sequences=7, max_answer_bytes=300_000, max_attend_numbers=100_000)
    with listening(app) as url, httpx.Client(base_url=url, timeout=10) as session:
        yield session

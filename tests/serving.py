"""The service under test: in this event loop, or behind a socket of its own."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

import kqv
from service.app import create_app
from service.batching.batcher import Batcher
from service.batching.queue import Size
from service.models import Models
from service.server import make_config
from service.settings import Settings
from service.wire.answers import AttendAnswer


def make_app(model: kqv.Model, **settings: Any) -> FastAPI:
    """An app that serves one model, with one worker of one thread unless said: then a test can tell who goes with whom."""
    settings = {"workers": 1, "threads": 1} | settings
    models = Models(lambda: [model])
    models.load()
    return create_app(Settings(**settings), models)


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app that runs in this event loop; what the app lets through is not raised here, as no client would see it."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://kqv") as client:
        yield client


class Announced(uvicorn.Server):
    """A server that says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = threading.Event()

    async def main_loop(self) -> None:
        self.listens.set()
        await super().main_loop()


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """The address of a real server on a free port of the loopback."""
    settings = app.state.service.settings.model_copy(update={"port": 0, "graceful_shutdown_s": 5})
    server = Announced(make_config(app, settings))
    thread = threading.Thread(target=asyncio.run, args=(server.serve(),))
    thread.start()
    try:
        assert server.listens.wait(10)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@dataclass(frozen=True)
class Task:
    """Any function as work of its own."""

    function: Callable[[Sequence[Any]], Sequence[Any]]
    lane: str = "task"

    def __call__(self, jobs: Sequence[Any]) -> Sequence[Any]:
        return self.function(jobs)


class Gate:
    """Work that takes until it is opened."""

    lane = "gate"

    def __init__(self) -> None:
        self.busy, self._free = threading.Event(), threading.Event()
        self.open = self._free.set

    def __call__(self, jobs: Sequence[Any]) -> Sequence[Any]:
        self.busy.set()
        assert self._free.wait(10)
        return jobs


@asynccontextmanager
async def busy_device(batcher: Batcher) -> AsyncIterator[Callable[[], None]]:
    """Until the block's end, or until it calls what it gets, the device has something else to do."""
    gate = Gate()
    [future] = batcher.submit(gate, [None], [Size(1)])
    await asyncio.to_thread(gate.busy.wait, 10)
    yield gate.open
    gate.open()
    await future


def keep_busy(app: FastAPI) -> Gate:
    """The gate that the device of an app in another thread stands before."""
    gate, batcher = Gate(), app.state.service.batcher
    batcher._loop.call_soon_threadsafe(batcher.submit, gate, [None], [Size(1)])
    assert gate.busy.wait(10)
    return gate


async def until_waiting(batcher: Batcher, jobs: int) -> None:
    async with asyncio.timeout(10):
        while batcher.load.waiting < jobs:  # noqa: ASYNC110 -- the test must see it without the batcher's help
            await asyncio.sleep(0.001)


def wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(2000):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it never came to pass")


def attend(client: httpx.Client, **body: Any) -> Any:
    """The answer of /v1/attend, which is as it is described."""
    response = client.post("/v1/attend", json=body)
    assert response.status_code == 200, response.text
    AttendAnswer.model_validate_json(response.content, strict=True)
    return response.json()

"""The process: from settings to a server that starts, drains and stops."""

import asyncio
import ctypes
import gc
import logging
import signal
import sys
import time
from contextlib import suppress
from types import FrameType

import torch
import uvicorn
from fastapi import FastAPI

import kqv
from kqv import KqvError, Model
from service.app import create_app
from service.http.protocol import protocol_of
from service.models import Models
from service.observing.logs import configure
from service.observing.tracing import start_tracing
from service.settings import Settings
from service.state import Service
from service.work.analyzing import warm_up

logger = logging.getLogger(__name__)

SWITCH_S = 0.0005
"""How long a thread may wait for the interpreter before the one that has it must give it up. Python's own 5 ms are longer than most
operations of a batch take, and a worker asks for it after each of them."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Of glibc's malloc.h."""
ARENAS = 1
"""Stores of free memory. glibc makes up to eight for each core, and what a thread has freed in one is of no use to another: under
answers of tens of megabytes the process grows by some hundreds for that."""
ALONE = 1 << 19
"""Bytes from which on a block has pages of its own, which the system has back as soon as it is freed. By itself glibc goes up from
128 KiB to 32 MiB as blocks come and go. Maps and parts of answers lie in the store then, and the holes that they leave between what
stays came to 600 MB within minutes. New pages for each cost a twentieth of the answers with all weights, and less of those without;
with 256 KiB twice as much."""
SPARE = 1 << 21
"""Bytes that may be free at the end of the store before they go back too: what a lone sentence takes. With a quarter of it the next
one has seventy pages to take anew; with 16 MiB it grew by 1.3 MB a minute."""

GIVE_BACK_S = 5.0
"""How often what is free amid the store goes back, too: a crowd of answers leaves some tens of megabytes more than the largest
crowd before. In a store as small as this it takes 1 to 13 ms, in which nobody else has memory of it."""

YOUNG = 50_000
"""Objects more than there were that the garbage collector waits for, where Python has it wait for 700."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(settings: Settings) -> None:
    """Serve until told to stop; raises `SystemExit` where the models can't be loaded."""
    configure(settings)
    bound_free_memory()
    sys.setswitchinterval(SWITCH_S)
    models = Models(lambda: [read_model(name, settings) for name in settings.models])
    app = create_app(settings, models, start_tracing(settings))
    if not app.state.service.keys.required and settings.host not in LOOPBACK:
        logger.warning("no API keys are set: everyone who reaches %s may use this service", settings.host)
    server = Server(make_config(app, settings), app.state.service)
    server.run()
    if server.failed:
        raise SystemExit(1)


def make_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn is to run."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=protocol_of(settings, app.state.door.refuse),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.graceful_shutdown_s,
    )


def read_model(name: str, settings: Settings) -> Model:
    """One of the models, on the device of the settings."""
    return kqv.load(name, device=settings.device, dtype=getattr(torch, settings.dtype), store=settings.store)


def bound_free_memory() -> None:
    """Have all threads take memory from the same store, and what is large from none, where the C library is glibc."""
    with suppress(AttributeError):  # others have neither this function nor such stores
        set_option = ctypes.CDLL(None).mallopt
        for option, value in ((M_ARENA_MAX, ARENAS), (M_MMAP_THRESHOLD, ALONE), (M_TRIM_THRESHOLD, SPARE)):
            set_option(option, value)


def give_back_free_memory() -> None:
    """Have the system have back all pages of the store that nothing lies in."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def leave_alone_what_stays() -> None:
    """Have the garbage collector look no more at what there is by now, which is there for good: libraries, models, routes.

    It took 0.11 s to look it all through, every few seconds under load, while every thread stood still. And have it look more
    rarely at what came since: requests leave no garbage, and with a crowd waiting it took a sixth of the loop's time to see that.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)


async def keep_giving_back() -> None:
    """Until cancelled."""
    while True:
        await asyncio.sleep(GIVE_BACK_S)
        await asyncio.to_thread(give_back_free_memory)


class Server(uvicorn.Server):
    """uvicorn, that loads the models once it listens, and drains before it stops."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self.failed = False
        self._stop_at = float("inf")

    async def main_loop(self) -> None:
        """Load the models while the socket is open already, so that probes are answered meanwhile."""
        tasks = [asyncio.create_task(self._load()), asyncio.create_task(keep_giving_back())]
        await super().main_loop()
        for task in tasks:
            task.cancel()

    async def _load(self) -> None:
        """Read the models off the event loop and off the workers, and have the workers try them, before anyone else may."""
        started = time.monotonic()
        torch.set_num_threads(1)  # here, and in every thread from now on but the workers: cores are theirs
        try:
            models = await asyncio.to_thread(self.service.models.read)
            for model in models.values():
                await warm_up(model, self.service.batcher)
        except Exception as error:
            logger.error("the models can't be loaded: %s", error, exc_info=not isinstance(error, KqvError))
            self.failed = self.should_exit = True
            return
        leave_alone_what_stays()
        self.service.models.publish(models)
        if unserved := self.service.heads.unserved:
            logger.warning("KQV_HEAD_METRICS names models that aren't served: %s", ", ".join(unserved))
        logger.info("loaded %s in %.1f s", ", ".join(models), time.monotonic() - started)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM drains first; Ctrl-C stops at once, or a second signal does; one more gives up on what is under way."""
        if sig == signal.SIGTERM and not self.service.draining:
            self.service.draining = True
            self._stop_at = time.monotonic() + self.service.settings.drain_s
        elif self.should_exit:
            self.force_exit = True
        else:
            self.service.draining = self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: is it time to stop?"""
        if self.service.batcher.broken:
            self.failed = True
            return True
        return await super().on_tick(counter) or time.monotonic() >= self._stop_at

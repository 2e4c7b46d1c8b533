"""The batching middleware: what waits for the device goes there together.

It is work-conserving. An idle device starts at once; while it is busy the queue grows, and the next batch with it. There is no
timer: to wait for company would only cost those time who come alone.

The batcher knows nothing of models: a job is anything, with a cost in tokens, and a function that works on a list of such jobs.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kqv import InputError
from service.errors import OverloadedError, UnavailableError

logger = logging.getLogger(__name__)

Work = Callable[[Sequence[Any]], Sequence[Any]]
"""Makes a result of each job, in order, or an `Unfinished` one. Jobs whose `Work` is equal may share a batch."""


@dataclass(frozen=True, eq=False)
class Run:
    """One trip to the device."""

    started: float
    """On the monotonic clock."""
    seconds: float
    jobs: int
    cost: int


class Done(NamedTuple):
    """A job's result, and how it came about."""

    result: Any
    waited_s: float
    run: Run
    next: "asyncio.Future[Done] | None" = None
    """The next run of a job that goes on; it waits for the device already."""


class Unfinished(NamedTuple):
    """What work makes of a job that goes on: the result of this run, and what the next one costs."""

    result: Any
    cost: int


class Waiting(NamedTuple):
    """A job in the queue; its future is cancelled when nobody wants the result any more."""

    work: Work
    job: Any
    cost: int
    future: asyncio.Future[Done]
    since: float


class Load(NamedTuple):
    """What the device has to do."""

    waiting: int
    running: int
    waiting_cost: int


class Watcher:
    """Is told what happens, on the thread where it happens; this one doesn't care."""

    def ran(self, run: Run, largest: int) -> None:
        """A batch was done, whose largest job cost so much."""

    def failed(self) -> None:
        """A job failed by itself, and not for what was asked."""

    def cancelled(self, stage: str, jobs: int) -> None:
        """So many jobs were given up while they were in this stage: `queue` or `forward`."""


@dataclass(frozen=True)
class Limits:
    """How much may wait, and how much goes to the device at once."""

    waiting_cost: int
    waiting_jobs: int
    batch_cost: int


class Batcher:
    """A queue, and the one thread that uses the device. It belongs to the event loop that starts it."""

    def __init__(self, limits: Limits, watcher: Watcher | None = None) -> None:
        self._limits = limits
        self._watcher = watcher or Watcher()
        self._running = 0
        self._changed = threading.Condition()
        self._queue: list[Waiting] = []
        self._closing = False
        self._cost_per_s = 0.0
        self._thread = threading.Thread(target=self._serve, name="device", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def close(self) -> None:
        """Take nothing more, finish what waits, and stop."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    def submit(self, work: Work, jobs: Sequence[Any], costs: Sequence[int]) -> list[asyncio.Future[Done]]:
        """Queue all of a request's jobs, or none of them; returns their results' futures.

        Raises `OverloadedError` where too much waits already: never for an empty queue, so that no request is too large for ever.
        """
        now = time.monotonic()
        entries = [Waiting(work, job, cost, self._loop.create_future(), now) for job, cost in zip(jobs, costs, strict=True)]
        with self._changed:
            if self._closing:
                raise UnavailableError("this replica is about to stop", retry_after_s=1)
            queued = sum(entry.cost for entry in self._queue)
            fits = queued + sum(costs) <= self._limits.waiting_cost and len(self._queue) + len(jobs) <= self._limits.waiting_jobs
            if self._queue and not fits:
                raise OverloadedError(f"{queued} tokens wait for the device already", self._seconds_for(queued))
            self._queue += entries
            self._changed.notify()
        return [entry.future for entry in entries]

    @property
    def load(self) -> Load:
        """What waits and runs at the moment."""
        with self._changed:
            return Load(len(self._queue), self._running, sum(entry.cost for entry in self._queue))

    def _seconds_for(self, cost: int) -> int:
        """How long the device will take for so much, judged by what it did before."""
        return max(1, math.ceil(cost / self._cost_per_s)) if self._cost_per_s else 1

    def _serve(self) -> None:
        """The device thread: batch after batch until closed."""
        while self._serve_one():
            pass

    def _serve_one(self) -> bool:
        """Wait for a batch and run it; false once there will be none. A frame of its own, so that no result outlives its batch."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            queued = len(self._queue)
            batch, rest = next_batch(self._queue, self._limits.batch_cost)
            self._queue, self._running = rest, len(batch)
            more = bool(self._queue) or not self._closing
        self._watcher.cancelled("queue", queued - len(batch) - len(rest))
        if batch:
            self._run(batch)
            self._running = 0
        return more

    def _run(self, batch: list[Waiting]) -> None:
        """Run a batch; one that fails is halved until a poisoned job fails alone."""
        started = time.monotonic()
        try:
            results = batch[0].work([entry.job for entry in batch])
            run = Run(started, time.monotonic() - started, len(batch), sum(entry.cost for entry in batch))
            outcomes = [Done(result, started - entry.since, run) for entry, result in zip(batch, results, strict=True)]
        except Exception as error:
            if len(batch) == 1:
                if not isinstance(error, InputError):
                    self._watcher.failed()
                self._settle(batch, [error])
                return
            logger.warning("a batch of %d failed, and is tried again in halves: %r", len(batch), error)
            half = len(batch) // 2
            self._run(batch[:half])
            self._run(batch[half:])
            return
        self._measure(run.cost, run.seconds)
        self._watcher.ran(run, max(entry.cost for entry in batch))
        self._watcher.cancelled("forward", sum(entry.future.cancelled() for entry in batch))
        self._settle(batch, [self._go_on(entry, done) for entry, done in zip(batch, outcomes, strict=True)])

    def _go_on(self, entry: Waiting, done: Done) -> Done:
        """Put a job that goes on behind those that wait: before the next batch is made up, so that jobs stay in step.

        It was let in once, so no limit refuses it now.
        """
        if not isinstance(done.result, Unfinished):
            return done
        result, cost = done.result
        if entry.future.cancelled():
            return done._replace(result=result)
        again = entry._replace(cost=cost, future=self._loop.create_future(), since=time.monotonic())
        with self._changed:
            self._queue.append(again)
        return done._replace(result=result, next=again.future)

    def _measure(self, cost: int, seconds: float) -> None:
        """Follow the device's speed, as it was over the last few batches."""
        cost_per_s = cost / max(seconds, 1e-9)
        self._cost_per_s += (cost_per_s - self._cost_per_s) * (0.2 if self._cost_per_s else 1.0)

    def _settle(self, batch: Sequence[Waiting], outcomes: Sequence[Done | Exception]) -> None:
        """Hand the outcomes to those who wait, on their own thread."""
        self._loop.call_soon_threadsafe(settle, [entry.future for entry in batch], outcomes)


def settle(futures: Sequence[asyncio.Future[Done]], outcomes: Sequence[Done | Exception]) -> None:
    """Set the futures that still wait; a cancelled one may not be set."""
    for future, outcome in zip(futures, outcomes, strict=True):
        if future.done():
            if isinstance(outcome, Done) and outcome.next is not None:
                outcome.next.cancel()
        elif isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def abandon(future: asyncio.Future[Done]) -> None:
    """Cancel a job, which may have gone on since."""
    while not future.cancel() and not future.cancelled() and future.exception() is None:
        following = future.result().next
        if following is None:
            return
        future = following


def next_batch(queue: Sequence[Waiting], budget: int) -> tuple[list[Waiting], list[Waiting]]:
    """The head of the queue with what may go along, and the rest, in order. What nobody waits for any more is in neither.

    The head always goes, however large, so that nobody starves; those that fit beside it may overtake those that don't.
    """
    batch: list[Waiting] = []
    rest: list[Waiting] = []
    for entry in queue:
        if entry.future.cancelled():
            continue
        if not batch or (entry.work == batch[0].work and entry.cost <= budget):
            batch.append(entry)
            budget -= entry.cost
        else:
            rest.append(entry)
    return batch, rest

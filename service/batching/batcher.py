"""Who is let in to wait for the device, and what becomes of those who wait."""

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from kqv import InputError
from service.batching.queue import Queue, Size, Waiting, Work, smoothed, total
from service.batching.workers import Crew, Outcome, Ran, Run, Workers, WorkersFailedError
from service.errors import OverloadedError, UnavailableError


class Done(NamedTuple):
    """A job's result, and how it came about."""

    result: Any
    waited_s: float
    run: Run
    next: "asyncio.Future[Done] | None" = None
    """The next run of a job that goes on; it waits for the device already."""


class Unfinished(NamedTuple):
    """What work makes of a job that goes on: the result of this run, and what the next one takes."""

    result: Any
    size: Size


class Load(NamedTuple):
    """What the device has to do."""

    waiting: int
    """Jobs."""
    running: int
    waiting_cost: int
    """Tokens."""


class Watcher:
    """Is told what happens, on the thread where it happens; this one doesn't care."""

    def ran(self, run: Run, largest: int) -> None:
        """A batch was done, whose largest job was of so many tokens."""

    def failed(self) -> None:
        """A job failed by itself, and not for what was asked."""

    def cancelled(self, stage: str, jobs: int) -> None:
        """So many jobs were given up while they were in this stage: `queue` or `forward`."""


@dataclass(frozen=True)
class Limits:
    """How much may wait, and how much goes to the device at once."""

    waiting_tokens: int
    waiting_jobs: int
    batch: Size
    batch_s: float = math.inf
    """Seconds that it may be expected to take."""


ALONE = Crew(workers=1)


class Batcher:
    """A queue and the workers that empty it. It belongs to the event loop that starts it."""

    def __init__(
        self,
        limits: Limits,
        crew: Crew = ALONE,
        watcher: Watcher | None = None,
        probe: Callable[[], None] = lambda: None,
    ) -> None:
        """`probe` raises where the device will never work again; it is asked after each failure."""
        self._limits = limits
        self._watcher = watcher or Watcher()
        self._queue = Queue(limits.batch, limits.batch_s)
        self._workers = Workers(crew, self._queue, self._settle, probe)
        self._closing = False
        self._waking = False
        self._tokens_per_s = 0.0
        self._usual_tokens = 0.0
        """Of a request, over the last ten or so; none counts for more than a batch."""

    def start(self) -> None:
        """Begin to work."""
        self._loop = asyncio.get_running_loop()
        self._workers.start()

    async def close(self) -> None:
        """Take nothing more, finish what waits, and stop."""
        self._closing = True
        await asyncio.to_thread(self._workers.close)

    @property
    def workers(self) -> int:
        """How many batches run side by side."""
        return self._workers.count

    @property
    def load(self) -> Load:
        """What waits and runs at the moment."""
        with self._workers.lock:
            return Load(len(self._queue), self._workers.running, self._queue.size.tokens)

    @property
    def broken(self) -> bool:
        """Whether nothing will ever run here again."""
        return self._workers.failure is not None

    def check_room(self) -> None:
        """Raise `OverloadedError` where a request of the usual size would find no room: so nobody need read it to say so."""
        with self._workers.lock:
            self._refuse_beyond(self._usual_tokens, 1)

    def submit(self, work: Work, jobs: Sequence[Any], sizes: Sequence[Size]) -> list[asyncio.Future[Done]]:
        """Queue all of a request's jobs, or none of them; returns their results' futures. To cancel one frees its place.

        Raises `OverloadedError` where too much waits already: never for an empty queue, so that no request is too large for ever.
        """
        now = time.monotonic()
        waiting = [Waiting(work, job, size, self._loop.create_future(), now) for job, size in zip(jobs, sizes, strict=True)]
        with self._workers.lock:
            self._let_in(waiting)
        for each in waiting:
            each.future.add_done_callback(partial(self._left, each))
        return [each.future for each in waiting]

    def _let_in(self, waiting: Sequence[Waiting]) -> None:
        """All or none. The lock is held."""
        if self._closing:
            raise UnavailableError("this replica is about to stop", retry_after_s=1)
        if self.broken:
            raise failed_device()
        tokens = total(each.size for each in waiting).tokens
        self._usual_tokens += 0.1 * (min(tokens, self._limits.batch.tokens) - self._usual_tokens)
        self._refuse_beyond(tokens, len(waiting))
        self._queue.put(waiting)
        if not self._waking:
            self._waking = True
            self._loop.call_soon(self._wake)

    def _refuse_beyond(self, tokens: float, jobs: int) -> None:
        """Raise `OverloadedError` where so much more is too much. The lock is held."""
        queued = self._queue.size.tokens
        fits = queued + tokens <= self._limits.waiting_tokens and len(self._queue) + jobs <= self._limits.waiting_jobs
        if self._queue and not fits:
            raise OverloadedError(f"{queued} tokens wait for the device already", self._seconds_for(queued))

    def _wake(self) -> None:
        """Now that all who came together are in the queue: a worker that had woken at the first would have run it alone."""
        self._waking = False
        with self._workers.lock:
            self._workers.wake()

    def _seconds_for(self, tokens: int) -> int:
        """How long the workers will take for so much, judged by what they did before."""
        return max(1, math.ceil(tokens / (self._tokens_per_s * self._workers.count))) if self._tokens_per_s else 1

    def _left(self, waiting: Waiting, future: asyncio.Future[Done]) -> None:
        """Free the place of a job that nobody wants any more."""
        if future.cancelled():
            with self._workers.lock:
                was_waiting = self._queue.drop(waiting)
            if was_waiting:
                self._watcher.cancelled("queue", 1)

    def _settle(self, jobs: Sequence[Waiting], outcomes: Sequence[Outcome], given_up: int) -> None:
        """On a worker's thread: hand the outcomes to those who wait, on theirs. So many others were given up before they ran."""
        abandoned = sum(waiting.future.cancelled() for waiting in jobs)
        settled = [self._settled(waiting, outcome) for waiting, outcome in zip(jobs, outcomes, strict=True)]
        with suppress_closed(self._loop):
            self._loop.call_soon_threadsafe(settle, jobs, settled)  # first, so that nobody waits for what is only noted
        self._watcher.cancelled("queue", given_up)
        self._watcher.cancelled("forward", abandoned)
        for run, largest in runs(jobs, outcomes).items():
            self._measure(run)
            self._watcher.ran(run, largest)
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, InputError):
                self._watcher.failed()

    def _settled(self, waiting: Waiting, outcome: Outcome) -> Done | Exception:
        """What the one who waits is told."""
        if isinstance(outcome, WorkersFailedError):
            return failed_device()
        if isinstance(outcome, Exception):
            return outcome
        done = Done(outcome.result, outcome.run.started - waiting.since, outcome.run)
        return self._go_on(waiting, done) if isinstance(outcome.result, Unfinished) else done

    def _go_on(self, waiting: Waiting, done: Done) -> Done | Exception:
        """Let a job that goes on wait again, from before the next batch is made up, so that jobs stay in step.

        It was let in once, so no limit refuses it now.
        """
        result, size = done.result
        if waiting.future.cancelled() or waiting.fate.abandoned:
            return done._replace(result=result)
        again = Waiting(waiting.work, waiting.job, size, self._loop.create_future(), time.monotonic(), waiting.fate)
        with self._workers.lock:
            if self.broken:
                return failed_device()
            self._queue.put([again])
        again.future.add_done_callback(partial(self._left, again))
        return done._replace(result=result, next=again.future)

    def _measure(self, run: Run) -> None:
        """Follow a worker's speed, as it was over the last few batches."""
        if run.cost:
            self._tokens_per_s = smoothed(self._tokens_per_s, run.cost / max(run.seconds, 1e-9))


def failed_device() -> UnavailableError:
    """What is said once nothing runs any more."""
    return UnavailableError("the device of this replica has failed", retry_after_s=1)


def runs(jobs: Sequence[Waiting], outcomes: Sequence[Outcome]) -> dict[Run, int]:
    """The runs that made the outcomes, each with the tokens of its largest job."""
    largest: dict[Run, int] = {}
    for waiting, outcome in zip(jobs, outcomes, strict=True):
        if isinstance(outcome, Ran):
            largest[outcome.run] = max(largest.get(outcome.run, 0), waiting.size.tokens)
    return largest


@contextmanager
def suppress_closed(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Tell a loop that is closed nothing: who waited in it has gone with it, and that is no failure of the worker."""
    try:
        yield
    except RuntimeError:
        if not loop.is_closed():
            raise


def settle(jobs: Sequence[Waiting], outcomes: Sequence[Done | Exception]) -> None:
    """Set the futures that still wait; a cancelled one may not be set."""
    for waiting, outcome in zip(jobs, outcomes, strict=True):
        future = waiting.future
        if future.done():
            waiting.fate.abandoned = True
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

"""The threads that use the device: each takes a batch, runs it, and hands its outcome over.

Batches run fastest side by side, a worker for each core with one thread of torch's own: a batch is hundreds of small operations,
and threads that share one wait for each other after each, the longest for one that the event loop has displaced. Who comes alone
has the cores of all idle workers, wherever that is faster.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from service.batching.pace import Pace
from service.batching.queue import Batch, Queue, Waiting

logger = logging.getLogger(__name__)

MOST_WORKERS = 8
"""On a machine of more cores each worker has several threads: the interpreter lets only one of them speak at a time."""

LEAD = 0
"""The worker that may use more cores than its own. There is one: as soon as two threads have made teams that are larger than the
machine together, OpenMP lets all of them sleep at each barrier instead of spinning, and a sentence takes 24 ms instead of 14."""

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Crew:
    """Who does the work."""

    workers: int = 1
    threads: int = 1
    """Of torch's own, for each worker."""


def make_crew(workers: int | Literal["auto"], threads: int | Literal["auto"], device: str) -> Crew:
    """By default one worker that feeds a GPU, else one for each core, up to a number; the cores are divided among them."""
    cores = count_cores()
    usual = min(cores, MOST_WORKERS) if is_cpu(device) else 1
    count = usual if workers == "auto" else workers
    return Crew(count, max(1, cores // count) if threads == "auto" else threads)


def is_cpu(device: str) -> bool:
    """Whether models run there on the CPU."""
    import torch  # not above: the command line knows of batches, and needn't wait for torch

    return device == "cpu" or (device == "auto" and not torch.cuda.is_available())


def use_threads(count: int) -> None:
    """How many the calling thread's operations run on; with OpenMP each has a number of its own."""
    import torch

    if torch.get_num_threads() != count:  # the first question sets a new thread's number to what another was last given
        torch.set_num_threads(count)


def count_cores() -> int:
    """Those that this process may use, by its affinity and by its container's share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if CPU_MAX.exists():
        quota, period = CPU_MAX.read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)


@dataclass(frozen=True, eq=False)
class Run:
    """One trip to the device."""

    started: float
    """On the monotonic clock."""
    seconds: float
    jobs: int
    cost: int
    """Their tokens together."""


class Ran(NamedTuple):
    """A job's result, and the run that made it."""

    result: Any
    run: Run


Outcome = Ran | Exception


class WorkersFailedError(Exception):
    """Nothing runs any more."""


class Workers:
    """The threads, which share a queue and the cores that they run on."""

    def __init__(
        self,
        crew: Crew,
        queue: Queue,
        settle: Callable[[Sequence[Waiting], Sequence[Outcome], int], None],
        probe: Callable[[], None],
    ) -> None:
        self.lock = threading.Lock()
        """Held by whoever touches the queue."""
        self.running = 0
        self.failure: BaseException | None = None
        """Why nothing runs any more."""
        self._crew = crew
        self._queue = queue
        self._settle = settle
        self._probe = probe
        self._idle = crew.workers
        """Cores that nobody uses, one a worker."""
        self._idle_since = 0.0
        self._closing = False
        self._bells = [threading.Condition(self.lock) for _ in range(crew.workers)]
        self._resting: set[int] = set()
        """Workers that wait for their bell."""
        self._pace = Pace()
        self._returning = crew.workers
        """Workers that are done, and haven't looked yet for more."""
        self._threads = [
            threading.Thread(target=self._serve, args=(index,), name=f"device-{index}", daemon=True)
            for index in range(crew.workers)
        ]

    @property
    def count(self) -> int:
        return self._crew.workers

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Finish what waits, and stop."""
        with self.lock:
            self._closing = True
            self._wake_all()
        for thread in self._threads:
            thread.join()

    def wake(self) -> None:
        """Rouse the first worker that rests, where there is something for it; one that is done looks by itself. Under the lock."""
        if self._queue and self._resting and not self._returning:
            self._bells[min(self._resting)].notify()

    def _wake_all(self) -> None:
        for index in self._resting:
            self._bells[index].notify()

    def _serve(self, index: int) -> None:
        """One worker: batch after batch. Whatever ends it but the end, ends all of them, and nobody is left waiting."""
        try:
            while self._serve_one(index):
                pass
        except BaseException as error:
            logger.critical("a worker has failed, and the service with it", exc_info=True)
            self._fail(error)

    def _serve_one(self, index: int) -> bool:
        """Wait for a batch and run it; false once there will be none. A frame of its own, so that no result outlives its batch."""
        with self.lock:
            self._returning -= 1
            self._rest(index)
            if self.failure is not None or not self._queue:
                return False
            batch = self._queue.take(self._idle)
            may_be_wide = index == LEAD and self._came_alone(batch)
            helpers = self._idle - 1 if may_be_wide and self._pace.choose(batch.work.lane, batch.size.tokens) else 0
            self._idle -= 1 + helpers
            self.running += len(batch.jobs)
            if self._idle:
                self.wake()
        seconds = self._run(batch, helpers)
        if may_be_wide:
            self._pace.learn(batch.work.lane, batch.size.tokens, helpers > 0, seconds)
        return True

    def _rest(self, index: int) -> None:
        """Wait until there is something to do, or to end."""
        while not self._has_news():
            self._resting.add(index)
            self._bells[index].wait()
            self._resting.discard(index)

    def _has_news(self) -> bool:
        return bool(self._queue and self._idle) or (self._closing and not self._queue) or self.failure is not None

    def _came_alone(self, batch: Batch) -> bool:
        """Whether other workers may stand back, so that a batch has their cores: one that had to wait for a core has company, for
        which the others are kept.
        """
        return self._idle > 1 and not self._queue and batch.jobs[0].since >= self._idle_since

    def _run(self, batch: Batch, helpers: int) -> float:
        """Run a batch and settle it, whatever happens: each job has its own result or error, and none is forgotten.

        Returns the seconds that it took.
        """
        jobs = [waiting for waiting in batch.jobs if not waiting.future.cancelled()]
        outcomes: Sequence[Outcome] = ()
        started = time.monotonic()
        try:
            use_threads(self._crew.threads * (1 + helpers))
            outcomes = attempt(jobs)
            if any(isinstance(outcome, Exception) for outcome in outcomes):
                self._probe()
        finally:
            seconds = time.monotonic() - started
            self._stand_down(batch, helpers, seconds)
            if len(outcomes) != len(jobs):
                logger.critical("%d jobs had %d outcomes; all of them fail", len(jobs), len(outcomes))
                outcomes = [RuntimeError("the outcomes of a batch were lost")] * len(jobs)
            self._settle(jobs, outcomes, len(batch.jobs) - len(jobs))
        return seconds

    def _stand_down(self, batch: Batch, helpers: int, seconds: float) -> None:
        """The batch is done: before anyone hears of it, who may come again at once and find this worker idle."""
        with self.lock:
            self._queue.took(batch, seconds * (1 + helpers))
            self._idle += 1 + helpers
            self._idle_since = time.monotonic()
            self._returning += 1
            self.running -= len(batch.jobs)
            if self._closing or (helpers and self._queue):
                self._wake_all()

    def _fail(self, error: BaseException) -> None:
        """Run nothing any more, and let nobody wait for it."""
        with self.lock:
            self.failure = error
            waiting = self._queue.clear()
            self._wake_all()
        self._settle(waiting, [WorkersFailedError()] * len(waiting), 0)


def attempt(jobs: Sequence[Waiting]) -> list[Outcome]:
    """Run jobs of one kind; where they fail together they are tried again in halves, until a poisoned one fails alone."""
    if not jobs:
        return []
    started = time.monotonic()
    try:
        results = jobs[0].work([waiting.job for waiting in jobs])
        if len(results) != len(jobs):
            raise RuntimeError(f"{len(jobs)} jobs gave {len(results)} results")
    except Exception as error:
        if len(jobs) == 1:
            return [error]
        logger.warning("a batch of %d failed, and is tried again in halves: %r", len(jobs), error)
        half = len(jobs) // 2
        return attempt(jobs[:half]) + attempt(jobs[half:])
    run = Run(started, time.monotonic() - started, len(jobs), sum(waiting.size.tokens for waiting in jobs))
    return [Ran(result, run) for result in results]

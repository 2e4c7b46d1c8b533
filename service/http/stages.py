"""What becomes of a request: where its time goes (tokenize, queue, forward, encode), and what it amounts to."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from service.batching.batcher import Done
from service.batching.workers import Run

STAGES = ("tokenize", "queue", "forward", "encode")


class Interval(NamedTuple):
    """From when to when, on the monotonic clock."""

    start: float
    end: float


class Stages:
    """Kept while a request is answered; the routes fill it in, and what surrounds them tells it on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        """By stage, in the order in which they ended."""
        self.intervals: dict[str, Interval] = {}
        """Likewise; what the device did for others in between is not in the seconds."""
        self.runs: frozenset[Run] = frozenset()
        """The batches that the request was in."""
        self.batch_sequences = 0
        """Sequences in the largest of those."""
        self.model: str | None = None
        self.sequences = 0
        self.tokens = 0
        self.truncated = 0
        """Sequences that were cut to fit the model's context."""

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Time the block."""
        started = time.monotonic()
        yield
        self._took(stage, Interval(started, time.monotonic()))

    def took(self, done: Sequence[Sequence[Done]]) -> None:
        """Note what the batcher says of each sequence's runs: who waited longest in all, and the time of each run once."""
        self.runs = frozenset(job.run for jobs in done for job in jobs)
        self.batch_sequences = max(run.jobs for run in self.runs)
        first = min(run.started for run in self.runs)
        since = min(job.run.started - job.waited_s for jobs in done for job in jobs)
        waited = max(sum(job.waited_s for job in jobs) for jobs in done)
        self._took("queue", Interval(since, first), waited)
        last = max(run.started + run.seconds for run in self.runs)
        self._took("forward", Interval(first, last), sum(run.seconds for run in self.runs))

    def amounts_to(self, model: str | None, sequences: int, tokens: int, truncated: int = 0) -> None:
        """Note which model has to do how much."""
        self.model, self.sequences, self.tokens, self.truncated = model, sequences, tokens, truncated

    def timing(self) -> dict[str, float]:
        """The answer's `timing`."""
        queue_ms, compute_ms = (round(self.seconds[stage] * 1e3, 3) for stage in ("queue", "forward"))
        return {"queue_ms": queue_ms, "compute_ms": compute_ms, "batch_sequences": self.batch_sequences}

    def header(self) -> dict[str, str]:
        """The answer's `Server-Timing`."""
        return {"server-timing": ", ".join(f"{stage};dur={seconds * 1e3:.3f}" for stage, seconds in self.seconds.items())}

    def _took(self, stage: str, interval: Interval, seconds: float | None = None) -> None:
        self.intervals[stage] = interval
        self.seconds[stage] = interval.end - interval.start if seconds is None else seconds

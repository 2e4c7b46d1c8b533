"""Where a request's time goes: tokenize, queue, forward, encode."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from service.batching import Done


class Stages:
    """Seconds by stage, in the order in which they ended."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.batch_sequences = 0

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Time the block."""
        started = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - started

    def took(self, done: Sequence[Sequence[Done]]) -> None:
        """Note what the batcher says of each sequence's runs: who waited longest in all, and the time of each run once."""
        runs = {job.run for jobs in done for job in jobs}
        self.seconds["queue"] = max(sum(job.waited_s for job in jobs) for jobs in done)
        self.seconds["forward"] = sum(run.seconds for run in runs)
        self.batch_sequences = max(run.jobs for run in runs)

    def timing(self) -> dict[str, float]:
        """The answer's `timing`."""
        queue_ms, compute_ms = (round(self.seconds[stage] * 1e3, 3) for stage in ("queue", "forward"))
        return {"queue_ms": queue_ms, "compute_ms": compute_ms, "batch_sequences": self.batch_sequences}

    def header(self) -> dict[str, str]:
        """The answer's `Server-Timing`."""
        return {"server-timing": ", ".join(f"{stage};dur={seconds * 1e3:.3f}" for stage, seconds in self.seconds.items())}

"""What has been asked of each model by this protocol since the server started."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.http.stages import Stages
from service.oip.signature import VERSION

STAGES = {"queue": "queue", "compute_input": "tokenize", "compute_infer": "forward", "compute_output": "encode"}
"""What the protocol calls our stages."""


@dataclass
class Duration:
    """How often, and how long in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        """Once more."""
        self.count += 1
        self.ns += round(seconds * 1e9)


@dataclass
class ModelStatistics:
    """Of one model. Only the event loop touches it."""

    inference_count: int = 0
    """Sequences."""
    execution_count: int = 0
    """Batches that they were in, each counted once a request."""
    last_inference: int = 0
    """Milliseconds since 1970."""
    durations: dict[str, Duration] = field(default_factory=lambda: defaultdict(Duration))

    @contextmanager
    def measure(self, stages: Stages) -> Iterator[None]:
        """Count the block as a success or a failure, by what the stages say of it when it is over."""
        started = time.monotonic()
        try:
            yield
        except BaseException:
            self.durations["fail"].add(time.monotonic() - started)
            raise
        self.durations["success"].add(time.monotonic() - started)
        for name, stage in STAGES.items():
            self.durations[name].add(stages.seconds[stage])
        self.inference_count += stages.sequences
        self.execution_count += len(stages.runs)
        self.last_inference = time.time_ns() // 1_000_000

    def describe(self, model: str) -> dict[str, object]:
        """As the protocol has it."""
        names = ("success", "fail", *STAGES, "cache_hit", "cache_miss")
        return {
            "name": model,
            "version": VERSION,
            "last_inference": self.last_inference,
            "inference_count": self.inference_count,
            "execution_count": self.execution_count,
            "inference_stats": {name: vars(self.durations.get(name, Duration())) for name in names},
            "batch_stats": [],
        }

"""A model's passes as work for the batcher."""

from collections.abc import Sequence
from dataclasses import dataclass

from kqv import Analysis, Job, Model
from service.batching.queue import Size


@dataclass(frozen=True)
class Analyze:
    """Analyses. Equal for the same model, so that requests share its passes."""

    model: Model

    @property
    def lane(self) -> Model:
        """Models share the device fairly."""
        return self.model

    def __call__(self, jobs: Sequence[Job]) -> list[Analysis]:
        return self.model.analyze_jobs(jobs)


def size_of(job: Job, model: Model, bytes_per_number: int = 0) -> Size:
    """What an analysis takes, once its target is known: the tokens that are read, the target's among them, and if it is to be sent
    what it is in bytes."""
    tokens = len(job.sequence) + len(job.sequence.target or ())
    return Size(tokens, model.attention_cells(*job), model.answer_numbers(*job) * bytes_per_number)

"""A model's pass over a request's sequences: read, given their targets, let in, run and waited for."""

from collections.abc import Callable
from dataclasses import dataclass

from kqv import Analysis, Job, Model
from service.caller import Caller
from service.dependencies import Service
from service.encoding import Form
from service.generating import complete
from service.reading import size_up
from service.threads import run_off_loop


@dataclass(frozen=True)
class Analyzed:
    """What was found of each sequence, in order."""

    analyses: list[Analysis]
    tokens: int
    """Of all sequences together, their targets' among them."""
    is_large: bool
    """Whether the answer takes long to encode."""

    @property
    def usage(self) -> dict[str, int]:
        """The answer's `usage`."""
        return {"sequences": len(self.analyses), "tokens": self.tokens}


async def analyze(
    read: Callable[[], list[Job]], model: Model, form: Form, service: Service, caller: Caller, *, is_padded: bool = False
) -> Analyzed:
    """Run the jobs that `read` makes of a request. Raises what it raises, `AnswerTooLargeError`, and as `Caller.wait_for` does.

    In an answer that is padded, every sequence takes as much as the longest.
    """
    stages = caller.stages
    with stages.measure("tokenize"):
        jobs = await run_off_loop(caller.request.state.is_long, read)
    jobs, written = await complete(jobs, model, service.batcher, caller)
    asked = size_up(jobs, model, form, service.settings, is_padded=is_padded)
    stages.amounts_to(model.id, len(jobs), sum(asked.tokens), sum(job.sequence.truncated > 0 for job in jobs))
    done = await caller.wait_for(service.batcher.submit(model.analyze_jobs, asked.jobs, asked.tokens))
    stages.took([[*before, each] for before, each in zip(written, done, strict=True)])
    analyses = [each.result for each in done]
    service.heads.follow(model, jobs, analyses, service.batcher)
    return Analyzed(analyses, sum(asked.tokens), asked.answer_bytes > service.settings.inline_encode_bytes)

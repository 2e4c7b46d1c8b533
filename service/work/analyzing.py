"""A model's pass over a request's sequences: read, given their targets, let in, run and waited for."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from kqv import Analysis, Input, Job, Model, Selection
from service.batching.batcher import Batcher
from service.wire.encoding import Form
from service.work.caller import Caller
from service.work.generating import complete
from service.work.passes import Analyze, size_of
from service.work.reading import size_up
from service.work.threads import run_off_loop

WARM_UP_TOKENS = (9, 41, 128)
WARM_UP_ROUNDS = 2


async def warm_up(model: Model, batcher: Batcher) -> None:
    """Have every worker analyze sequences of usual lengths, so that no request pays for what is only done the first time."""
    for length in WARM_UP_TOKENS:
        ids = [0] * min(length, model.config.context)
        given = Input(tokens=ids, target=ids if model.config.architecture == "encoder-decoder" else None)
        jobs = [Job(model.read(given), Selection(weights="none"))] * WARM_UP_ROUNDS * batcher.workers
        await asyncio.gather(*batcher.submit(Analyze(model), jobs, [size_of(job, model) for job in jobs]))


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


async def analyze(read: Callable[[], list[Job]], model: Model, form: Form, caller: Caller, *, is_padded: bool = False) -> Analyzed:
    """Run the jobs that `read` makes of a request. Raises what it raises, `AnswerTooLargeError`, and as `Caller.wait_for` does.

    In an answer that is padded, every sequence takes as much as the longest.
    """
    stages, service = caller.stages, caller.service
    with stages.measure("tokenize"):
        jobs = await run_off_loop(caller.request.state.is_long, read)
    jobs, written = await complete(jobs, model, service.batcher, caller)
    asked = size_up(jobs, model, form, service.settings, is_padded=is_padded)
    stages.amounts_to(model.id, len(jobs), asked.tokens, sum(job.sequence.truncated > 0 for job in jobs))
    done = await caller.run(Analyze(model), asked)
    stages.took([[*before, each] for before, each in zip(written, done, strict=True)])
    analyses = [each.result for each in done]
    service.heads.follow(model, jobs, analyses, service.batcher)
    return Analyzed(analyses, asked.tokens, asked.answer_bytes > service.settings.inline_encode_bytes)

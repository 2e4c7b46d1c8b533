"""Texts that are being written: each token is a run of its own on the device, so that all who want something share it fairly."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kqv import Generation, GroupAnalysis, Job, Model
from kqv.config import Group
from kqv.generate import FinishReason
from service.batching.batcher import Batcher, Done, Unfinished, abandon
from service.batching.queue import Size
from service.work.caller import Caller
from service.work.reading import first_size, lacks_target


class Written(NamedTuple):
    """What one step wrote; the generation itself may be at its next one already."""

    token_id: int
    text: str
    """All of the new text so far."""
    attention: Mapping[Group, GroupAnalysis]
    finish_reason: FinishReason | None


@dataclass(frozen=True)
class Step:
    """Work for the batcher: one more token of each generation. Equal for the same model, so that requests share their steps."""

    model: Model

    @property
    def lane(self) -> Model:
        """Models share the device fairly."""
        return self.model

    def __call__(self, generations: Sequence[Generation]) -> list[Written | Unfinished]:
        self.model.advance(generations)
        return [written(generation) for generation in generations]


def written(generation: Generation) -> Written | Unfinished:
    """The last step's result."""
    result = Written(generation.read[-1], generation.text, generation.steps[-1], generation.finish_reason)
    return Unfinished(result, Size(len(generation.unread))) if generation.finish_reason is None else result


class Writer:
    """The generations of one request, let in together. Raises `OverloadedError` where too much waits already."""

    def __init__(self, model: Model, generations: Sequence[Generation], sizes: Sequence[Size], batcher: Batcher) -> None:
        self.model = model
        self.generations = generations
        self.prompt_tokens = sum(size.tokens for size in sizes)
        self.runs: list[list[Done]] = [[] for _ in generations]
        """Of each generation, those that are over."""
        self._under_way = dict(enumerate(batcher.submit(Step(model), generations, sizes)))

    async def write(self, caller: Caller) -> AsyncIterator[tuple[int, Written]]:
        """Each token as it comes, with the index of its generation. Raises as `Caller.wait_for` does; nothing is written then."""
        try:
            with caller.watched() as gone:
                while self._under_way:
                    await caller.wait_for_any(self._under_way.values(), gone)
                    for index, step in self._take_done():
                        yield index, step
        finally:
            self.stop()

    async def finish(self, caller: Caller) -> None:
        """Write to the end."""
        async for _ in self.write(caller):
            pass

    def stop(self) -> None:
        """Write no further: nobody wants the rest."""
        for future in self._under_way.values():
            abandon(future)

    def _take_done(self) -> list[tuple[int, Written]]:
        """The steps that are over, in the order of their generations, each of which goes on with the next."""
        steps = []
        for index, future in [each for each in self._under_way.items() if each[1].done()]:
            done = future.result()
            self.runs[index].append(done)
            steps.append((index, done.result))
            if done.next is None:
                del self._under_way[index]
            else:
                self._under_way[index] = done.next
        return steps


async def complete(jobs: Sequence[Job], model: Model, batcher: Batcher, caller: Caller) -> tuple[list[Job], list[list[Done]]]:
    """The jobs with a target each, so that their size is known, and the runs that it took to write it."""
    missing = [index for index, job in enumerate(jobs) if lacks_target(job.sequence, model)]
    completed: list[Job] = list(jobs)
    runs: list[list[Done]] = [[] for _ in jobs]
    if missing:
        generations = [model.begin_target(jobs[index].sequence, place(index, jobs)) for index in missing]
        writer = Writer(model, generations, [first_size(generation, model) for generation in generations], batcher)
        await writer.finish(caller)
        for index, generation, its_runs in zip(missing, writer.generations, writer.runs, strict=True):
            completed[index] = jobs[index]._replace(sequence=model.with_target(generation))
            runs[index] = its_runs
    return completed, runs


def place(index: int, jobs: Sequence[Job]) -> tuple[str | int, ...]:
    """Where a job's sequence stands in the request."""
    return ("input", index) if len(jobs) > 1 else ("input",)

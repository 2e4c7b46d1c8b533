"""Generation: the prompt is read once, then a token a step, several texts in one step; each step can be looked at."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from kqv.analysis import GroupAnalysis, TopWeights
from kqv.batch import in_passes, numbers, pack, pack_ids
from kqv.cache import Cache
from kqv.config import Group, ModelShape
from kqv.decoding import Plan
from kqv.diagnostics import DIAGNOSTICS
from kqv.errors import InputError, UnsupportedError
from kqv.inputs import TokenSequence
from kqv.network import Network
from kqv.recorder import Recorder
from kqv.rows import groups
from kqv.sampling import Sampling, choose
from kqv.selection import PER_HEAD, Selection, scopes
from kqv.tokenizer import Tokenizer
from kqv.watch import Watch, describe

CPU = torch.device("cpu")
"""Where a plan runs."""

FinishReason = Literal["length", "stop", "end"]


@dataclass(frozen=True, eq=False)
class Generated:
    """A text that a model wrote, and what it looked at meanwhile."""

    text: str | None
    """None where the model has no tokenizer."""
    token_ids: tuple[int, ...]
    """The new ones; the end token, where it ended the text, is the last."""
    tokens: tuple[str, ...] | None
    finish_reason: FinishReason
    """The limit, a stop text, or the model's own end token."""
    attention: dict[Group, GroupAnalysis]
    """Maps of all that was read: the prompt and the new tokens but the last. Query i chose token i + 1."""


class Mark(NamedTuple):
    """A generation between two steps."""

    written: int
    """Tokens on the decoder's side."""
    cached: int
    steps: int
    text: str
    chance: Tensor
    """The generator's state."""


@dataclass(eq=False)
class Generation:
    """A text that is being written. Each step reads the tokens that are not in the cache yet, and chooses the next."""

    source: TokenSequence
    """The prompt, or what an encoder–decoder's encoder reads."""
    sampling: Sampling
    selection: Selection
    read: tuple[int, ...]
    """Ids of the decoder's side so far."""
    prompt_length: int
    generator: torch.Generator
    cache: Cache = field(default_factory=Cache)
    steps: list[dict[Group, GroupAnalysis]] = field(default_factory=list)
    text: str = ""
    finish_reason: FinishReason | None = None

    @property
    def new_ids(self) -> tuple[int, ...]:
        """What was written."""
        return self.read[self.prompt_length :]

    @property
    def unread(self) -> tuple[int, ...]:
        """What the next step reads."""
        return self.read[self.cache.length :]

    def mark(self) -> Mark:
        """Where it is now, to come back to."""
        return Mark(len(self.read), self.cache.length, len(self.steps), self.text, self.generator.get_state())

    def rewind(self, mark: Mark) -> None:
        """Undo what was done since, half a step too: it goes on as if nothing had been."""
        self.read, self.text, self.finish_reason = self.read[: mark.written], mark.text, None
        self.cache.cut(mark.cached)
        del self.steps[mark.steps :]
        self.generator.set_state(mark.chance)


def begin(
    config: ModelShape, source: TokenSequence, sampling: Sampling, selection: Selection, place: tuple[str | int, ...] = ("input",)
) -> Generation:
    """A generation before its first step. Raises `InputError` for what can't be generated; `place` is where the source stands."""
    if config.architecture == "encoder" or config.head == "none":
        raise UnsupportedError("this model has no decoder with a language-model head, so it writes no text", ("model",))
    check_selection(selection)
    start = first_ids(config, source, place)
    room = config.context - len(start)
    if sampling.max_new_tokens > room:
        asked = f"{len(start)} tokens and max_new_tokens = {sampling.max_new_tokens}"
        message = f"{asked} exceed the model's context of {config.context}; ask for at most {max(0, room)}"
        raise InputError(message, ("max_new_tokens",))
    return Generation(source, sampling, selection, start, len(start), sampling.generator())


def first_ids(config: ModelShape, source: TokenSequence, place: tuple[str | int, ...]) -> tuple[int, ...]:
    """What the decoder reads first. Raises `UnsupportedError`, located at `place`, for a source that doesn't say."""
    if config.architecture == "decoder":
        if source.ids is None:
            raise UnsupportedError("generation starts from text or tokens, not from embeddings", place)
        return source.ids
    if source.target is not None and source.target.ids is not None:
        return source.target.ids
    if config.start_token is None:
        raise UnsupportedError("this model names no start token; give a target that begins with one", place)
    return (config.start_token,)


def check_selection(selection: Selection) -> None:
    """Raise `UnsupportedError` for what can't be put together from rows that come one by one."""
    if selection.attention is not None:
        raise UnsupportedError("a model writes by its own attention; analyze the finished text under another", ("attention",))
    if selection.weights == "pooled":
        raise UnsupportedError('a generation grows by rows, which can\'t be pooled; ask for weights "full" or "top"', ("weights",))
    whole = [name for name in selection.measures if DIAGNOSTICS[name].of_head]
    if whole:
        raise UnsupportedError(f"{', '.join(whole)} need whole maps; analyze the finished text for them", ("diagnostics",))


@torch.inference_mode()
def advance(transformer: Network, tokenizer: Tokenizer | None, generations: Sequence[Generation], plan: Plan | None = None) -> None:
    """One token for each generation: those that begin read their prompts in one pass, the others their last tokens in another.

    With a plan the latter is a single call. Where anything fails, all generations are as they were before.
    """
    marks = [generation.mark() for generation in generations]
    try:
        advance_each(transformer, tokenizer, generations, plan)
    except BaseException:
        for generation, mark in zip(generations, marks, strict=True):
            generation.rewind(mark)
        raise


def advance_each(transformer: Network, tokenizer: Tokenizer | None, generations: Sequence[Generation], plan: Plan | None) -> None:
    """The step itself."""
    fresh = [generation for generation in generations if not generation.cache.length]
    running = [generation for generation in generations if generation.cache.length]
    planned = [generation for generation in running if plan is not None and PER_HEAD.isdisjoint(generation.selection.outputs)]
    if plan is not None and planned:
        step_by(plan, tokenizer, planned)
    for group in (fresh, [generation for generation in running if generation not in planned]):
        if group:
            in_passes(transformer, shape, group, partial(step, transformer, tokenizer))


def step_by(plan: Plan, tokenizer: Tokenizer | None, generations: Sequence[Generation]) -> None:
    """One token of each generation, all layers in one call."""
    caches = tuple(generation.cache for generation in generations)
    watches = [watch(plan.config, CPU, tokenizer, generation) for generation in generations]
    inputs = pack_ids([generation.unread for generation in generations], plan.decoder, caches)
    decoded = plan.step(inputs, [watch.selection.looks_at_heads for watch in watches])
    for index, (generation, watch_, logits) in enumerate(zip(generations, watches, decoded.logits, strict=True)):
        generation.steps.append(groups(plan, watch_, decoded, index))
        take(generation, logits, plan.config, tokenizer)


def shape(generation: Generation) -> tuple[int, int, int]:
    """How many tokens the next step reads, and how many keys it finds: of the source and of what was read."""
    return len(generation.source), generation.cache.length, len(generation.unread)


def step(transformer: Network, tokenizer: Tokenizer | None, generations: Sequence[Generation]) -> list[int]:
    """One pass over what the generations have not read, all of them fresh or none; returns what each has chosen."""
    assert transformer.decoder is not None and transformer.head is not None
    device = next(transformer.parameters()).device
    recorder = Recorder([watch(transformer.config, device, tokenizer, generation) for generation in generations])
    is_fresh = not generations[0].cache.length
    sources = [generation.source for generation in generations]
    encoder = pack(sources, transformer.encoder) if transformer.encoder is not None and is_fresh else None
    caches = tuple(generation.cache for generation in generations)
    decoder = pack_ids([generation.unread for generation in generations], transformer.decoder, caches)
    hidden = transformer(encoder, decoder, recorder).x
    ends = numbers(decoder.packing.offsets, hidden.device) + numbers(decoder.packing.lengths, hidden.device) - 1
    for index, (generation, logits) in enumerate(zip(generations, transformer.head(hidden[ends]), strict=True)):
        generation.steps.append(recorder.groups(index))
        take(generation, logits, transformer.config, tokenizer)
    return [generation.read[-1] for generation in generations]


def take(generation: Generation, logits: Tensor, config: ModelShape, tokenizer: Tokenizer | None) -> None:
    """Choose the next token, and see whether it was the last."""
    chosen = choose(logits, generation.sampling, generation.generator)
    generation.read += (chosen,)
    if tokenizer is not None:
        generation.text = tokenizer.decode(generation.new_ids)
    stops = [found for stop in generation.sampling.stop if (found := generation.text.find(stop)) >= 0]
    if stops:
        generation.text, generation.finish_reason = generation.text[: min(stops)], "stop"
    elif chosen in config.end_tokens:
        generation.finish_reason = "end"
    elif len(generation.new_ids) >= generation.sampling.max_new_tokens:
        generation.finish_reason = "length"


def watch(config: ModelShape, device: torch.device, tokenizer: Tokenizer | None, generation: Generation) -> Watch:
    """What to look at in the next step; diagnostics come a query, since means wait for the last of them."""
    source, read = generation.source, generation.read
    lengths: dict[Group, tuple[int, int]] = {
        "encoder": (len(source), len(source)),
        "decoder": (len(generation.unread), len(read)),
        "cross": (len(generation.unread), len(source)),
    }
    lengths = {group: lengths[group] for group in config.groups}
    ids: dict[Group, tuple[int, ...] | None] = {"encoder": source.ids, "decoder": read, "cross": source.ids}
    selection = replace(generation.selection, per_query=True)
    # What tokens are is for the measures alone, and takes longer to find out than all the rest.
    described = describe(lengths, ids if selection.measures else dict.fromkeys(ids), device, tokenizer)
    return Watch(selection, scopes(selection, config, lengths), described)


def finish(generation: Generation, tokenizer: Tokenizer | None) -> Generated:
    """The text, and the maps of all steps put together."""
    assert generation.finish_reason is not None
    groups = {group for found in generation.steps for group in found}
    per_query = generation.selection.per_query
    joined = {group: join_steps([found[group] for found in generation.steps if group in found], per_query) for group in groups}
    return Generated(
        text=None if tokenizer is None else generation.text,
        token_ids=generation.new_ids,
        tokens=None if tokenizer is None else tuple(map(tokenizer.token, generation.new_ids)),
        finish_reason=generation.finish_reason,
        attention=joined,
    )


def join_steps(steps: Sequence[GroupAnalysis], per_query: bool) -> GroupAnalysis:
    """The rows of all steps as one map; keys that came after a row were masked for it, and weigh nothing."""
    first = steps[0]
    weights = top = None
    if first.weights is not None:
        weights = stack_rows([found.weights for found in steps if found.weights is not None])
    if first.top is not None:
        tops = [found.top for found in steps if found.top is not None]
        top = TopWeights(stack_rows([found.keys for found in tops], count=True), stack_rows([found.weights for found in tops]))
    rows = {name: torch.cat([found.diagnostics[name] for found in steps], dim=-1) for name in first.diagnostics}
    diagnostics = rows if per_query else {name: values.nanmean(-1) for name, values in rows.items()}
    return GroupAnalysis(first.layers, first.heads, weights=weights, top=top, diagnostics=diagnostics)


def stack_rows(parts: Sequence[Tensor], *, count: bool = False) -> Tensor:
    """Rows [L, H, Q, K] of growing length under one another, zeros where the shorter ones end.

    With `count` the columns go on with their own index: a row of m keys is continued by keys m, m + 1, …, which it did not see.
    """
    width = max(part.shape[-1] for part in parts)
    columns = torch.arange(width, device=parts[0].device)
    longer = [pad(part, (0, width - part.shape[-1])) for part in parts]
    if count:
        longer = [torch.where(columns < part.shape[-1], row, columns) for part, row in zip(parts, longer, strict=True)]
    return torch.cat(longer, dim=-2)

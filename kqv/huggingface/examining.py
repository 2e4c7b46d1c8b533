"""What a transformers model does, seen by running it on a few tokens when it is loaded, and held against its eager attention."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kqv.attention.call import AttentionCall
from kqv.attention.dense import dense
from kqv.attention.packed import join
from kqv.cache import Cache
from kqv.config import Architecture, Group, ModelShape
from kqv.errors import CheckpointError
from kqv.huggingface.network import Side, TransformersNetwork
from kqv.huggingface.registry import Listener, Step, listening
from kqv.huggingface.verifying import verify
from kqv.packing import Packing
from kqv.transformer import Inputs, Row

SOURCE, TARGET, SEQUENCES = 7, 5, 2
"""Tokens that the two sides read, unlike so that cross-attention is told by its keys, and sequences that they come in."""
CONTEXT = 1024
"""Taken where neither the config nor a table of positions says how long a text may be."""
LAYERS: dict[str, tuple[str, ...]] = {
    "encoder": ("encoder_layers", "num_encoder_layers", "num_hidden_layers"),
    "decoder": ("decoder_layers", "num_decoder_layers", "num_hidden_layers"),
}
"""What configs call the number of layers of each side, the more particular name first."""


@dataclass(eq=False)
class Call:
    """What was seen of one call."""

    module: nn.Module
    heads: int
    width: int
    keys: int
    looks_ahead: bool
    output: Tensor
    """[B·T, H·D], which the output projection reads next."""
    projection: nn.Module | None = None


class Scout(Listener):
    """Listens to a model of which nothing is known yet."""

    def __init__(self) -> None:
        super().__init__((), self.look)
        self.calls: list[Call] = []
        self._module: nn.Module | None = None

    def expect(self, module: nn.Module) -> Step:
        """Any module may come."""
        self._module = module
        return Step(module, "encoder", len(self.calls), None)

    def look(self, call: AttentionCall) -> Tensor:
        """Attend, and note what it was."""
        assert self._module is not None
        results = [sequence.by(dense) for sequence in call.sequences()]
        output = join(call, results)
        ahead = any(bool(result.visible.triu(1).any()) for result in results if result.visible is not None)
        _, heads, width = call.q.shape
        self.calls.append(Call(self._module, heads, width, len(call.keys[0]), ahead, output.flatten(1)))
        return output

    def meet(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        """A linear map is about to read something: perhaps what the last call made."""
        call = self.calls[-1] if self.calls else None
        if call is None or call.projection is not None or not given or not isinstance(given[0], Tensor):
            return
        read = given[0].reshape(-1, given[0].shape[-1])
        if read.shape == call.output.shape and torch.equal(read, call.output):
            call.projection = module


class Found(NamedTuple):
    """One side of a model, and what its pass has shown of it."""

    side: Side
    num_heads: int
    d_head: int
    d_model: int


@torch.inference_mode()
def examine(model: Any) -> TransformersNetwork:
    """The model as a network, on the CPU. Raises `CheckpointError` with the reason where that would not be exact."""
    ids = choose_ids(model.config, model.get_input_embeddings().num_embeddings)
    source, target = pack(ids), pack(ids[:, -TARGET:])
    if model.config.is_encoder_decoder:
        encoder = scout(model.get_encoder(), "encoder", source, None)
        row = encoder.side(source, None, attend)
        decoder = scout(model.get_decoder(), "decoder", target, row)
        config = describe(model, encoder, decoder)
        network = TransformersNetwork(model, config, encoder.side, decoder.side)
    else:
        only, target = scout(model.base_model, None, source, None), source
        config = describe(model, only)
        is_encoder = config.architecture == "encoder"
        network = TransformersNetwork(model, config, only.side if is_encoder else None, None if is_encoder else only.side)
    verify(network, source, target)
    return network


def choose_ids(config: Any, vocabulary: int) -> Int[Tensor, "B n"]:
    """Ids from all over the vocabulary, none of which config.json names: models treat padding and its like in their own way."""
    named = [value for name, value in config.to_dict().items() if name.endswith("_token_id")]
    special = {index for value in named for index in (value if isinstance(value, list) else [value])}
    plain = [index for index in range(vocabulary) if index not in special]
    wanted = SEQUENCES * SOURCE
    return torch.tensor([plain[len(plain) * place // wanted] for place in range(wanted)]).view(SEQUENCES, SOURCE)


def pack(ids: Int[Tensor, "B n"], caches: tuple[Cache, ...] = ()) -> Inputs:
    """Sequences of one length as a side reads them."""
    return Inputs(ids.flatten(), Packing((ids.shape[1],) * len(ids)), caches=caches)


def attend(call: AttentionCall) -> Tensor:
    """As the engine does it for layers that are looked at."""
    return join(call, [sequence.by(dense) for sequence in call.sequences()])


def scout(body: Any, group: Group | None, inputs: Inputs, source: Row | None) -> Found:
    """One side of a model, by what it calls in a pass; without a `group` its masks say whether it is an encoder or a decoder."""
    segments = (getattr(body.config, "type_vocab_size", None) or 0) > 1
    side = Side(body, (), has_token_types=segments, crosses=source is not None)
    scout = Scout()
    with listening(scout), meeting(body, scout.meet):
        out = body(**side.arguments(inputs, source))
    hidden = getattr(out, "last_hidden_state", None)
    if not isinstance(hidden, Tensor):
        raise CheckpointError("its layers give no last hidden state")
    own = group or ("encoder" if any(call.looks_ahead for call in scout.calls) else "decoder")
    side.steps = plan(scout.calls, own, inputs.packing.lengths[0])
    check_layers(side, own)
    shapes = {(call.heads, call.width) for call in scout.calls}
    if len(shapes) > 1:
        raise CheckpointError("its layers have heads of different numbers or widths, and kqv reports heads by one numbering")
    return Found(side, *shapes.pop(), hidden.shape[-1])


@contextmanager
def meeting(body: nn.Module, met: Callable[[nn.Module, tuple[Any, ...]], None]) -> Iterator[None]:
    """Be told of everything that a linear map reads, until the block's end."""
    hooks = [part.register_forward_pre_hook(met) for part in body.modules() if isinstance(part, nn.Linear | Conv1D)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def plan(calls: list[Call], own: Group, length: int) -> tuple[Step, ...]:
    """The calls of a pass in order: a layer looks at its own tokens, and at the source where it has as many keys as that."""
    steps: list[Step] = []
    for call in calls:
        group: Group = own if call.keys == length else "cross"
        steps.append(Step(call.module, group, sum(step.group == group for step in steps), call.projection))
    return tuple(steps)


def check_layers(side: Side, own: Group) -> None:
    """Raise `CheckpointError` unless each layer that the config promises has called us once for each kind of its attention."""
    counts = (getattr(side.body.config, name, None) for name in LAYERS[own])
    promised = next((count for count in counts if count is not None), None)
    for group in (own, "cross") if side.crosses else (own,):
        count = sum(step.group == group for step in side.steps)
        if count != promised:
            where = (
                f"{count} of its {promised} layers" if not side.crosses else f"in the {group} group {count} of {promised} layers"
            )
            message = f"{where} attend through transformers' registry of attention functions"
            raise CheckpointError(f"{message}; the others have attention of their own, or none")


def describe(model: Any, *found: Found) -> ModelShape:
    """What it is from outside."""
    config, steps = model.config, [step for each in found for step in each.side.steps]
    tables = {tuple(each.side.weight.shape) for each in found}
    if len(tables) > 1:
        raise CheckpointError("its two sides have vocabularies of their own")
    if len({each[1:] for each in found}) > 1:
        raise CheckpointError("its two sides have heads of different numbers or widths, and kqv reports heads by one numbering")
    [(vocabulary, d_embedding)] = tables
    layers = {group: sum(step.group == group for step in steps) for group in ("encoder", "decoder")}
    architecture: Architecture = "encoder" if layers["encoder"] else "decoder"
    ends = config.eos_token_id  # a number, a list of them, or None
    return ModelShape(
        architecture="encoder-decoder" if len(found) > 1 else architecture,
        vocabulary_size=vocabulary,
        context=min(context(config, each.side) for each in found),
        d_model=found[0].d_model,
        d_embedding=d_embedding,
        num_heads=found[0].num_heads,
        d_head=found[0].d_head,
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        token_types=config.type_vocab_size if found[0].side.has_token_types else 0,
        head="none" if model.get_output_embeddings() is None else "foreign",
        start_token=getattr(config, "decoder_start_token_id", None) if len(found) > 1 else None,
        end_tokens=() if ends is None else tuple(ends) if isinstance(ends, list | tuple) else (ends,),
    )


def context(config: Any, side: Side) -> int:
    """The longest sequence. Tables as RoBERTa's count positions from behind the padding token's, so that many fewer are of use."""
    named = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions"))
    rows: int = next((limit for limit in named if limit), CONTEXT)
    tables = [part for part in side.body.modules() if isinstance(part, nn.Embedding) and part.weight is not side.weight]
    unused = [1 + part.padding_idx for part in tables if part.num_embeddings == rows and part.padding_idx is not None]
    return rows - max(unused, default=0)

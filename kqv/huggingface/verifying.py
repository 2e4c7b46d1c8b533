"""A network is held against the model that it is made of, before anyone can ask it anything."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kqv.attention.call import AttentionCall
from kqv.attention.dense import dense
from kqv.attention.packed import join
from kqv.cache import Cache
from kqv.config import Group
from kqv.errors import CheckpointError
from kqv.huggingface.network import Side, TransformersNetwork
from kqv.huggingface.registry import NAME
from kqv.packing import Packing
from kqv.transformer import Inputs, Row

TOLERANCE = 1e-4
"""Of weights, and of hidden states and logits by their largest. In float32 they agree a hundred times better, or not at all."""

Weights = dict[tuple[Group, int], Float[Tensor, "B H T S"]]


def verify(network: TransformersNetwork, source: Inputs, target: Inputs) -> None:
    """Raise `CheckpointError` unless weights, hidden states and logits are those of transformers' eager attention, also from
    vectors, and step by step with a cache."""
    sides = (source if network.encoder else None, target if network.decoder else None)
    weights, row = watch(network, *sides)
    expected_weights, expected = run_eagerly(network, *sides)
    if weights.keys() != expected_weights.keys():
        raise CheckpointError("transformers' eager attention shows other layers than those that called kqv")
    for (group, layer), found in weights.items():
        agree(found, expected_weights[group, layer], f"the {group} weights of layer {layer}", 1.0)
    agree(row.x, expected.x, "the hidden states")
    agree(
        network(*(as_vectors(*side) for side in zip((network.encoder, network.decoder), sides, strict=True))).x,
        row.x,
        "from vectors",
    )
    if network.decoder is not None:
        agree(step_by_step(network, *sides), row.x, "with a cache the hidden states")
    if network.head is not None:
        agree(network.head(row.x), run_whole(network, source, target), "the logits")


def agree(found: Tensor, expected: Tensor, what: str, scale: float | None = None) -> None:
    """Raise `CheckpointError` unless two tensors are the same, as far as float32 goes."""
    largest = max(1.0, expected.abs().max().item()) if scale is None else scale
    off = (found - expected).abs().max().item() if found.shape == expected.shape else float("inf")
    if not off <= TOLERANCE * largest:  # a NaN compares false
        raise CheckpointError(f"{what} are off by {off:.1e} from those of transformers' eager attention")


def watch(network: TransformersNetwork, encoder: Inputs | None, decoder: Inputs | None) -> tuple[Weights, Row]:
    """A pass of ours, and the weights in it."""
    weights: Weights = {}

    def attend(call: AttentionCall) -> Tensor:
        results = [sequence.by(dense) for sequence in call.sequences()]
        weights[call.group, call.layer] = torch.cat([result.weights for result in results if result.weights is not None])
        return join(call, results)

    return weights, network(encoder, decoder, attend)


@contextmanager
def eager(model: Any) -> Iterator[None]:
    """Let the model attend in transformers' own way, until the block's end."""
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(NAME)


def run_eagerly(network: TransformersNetwork, encoder: Inputs | None, decoder: Inputs | None) -> tuple[Weights, Row]:
    """The same pass in transformers' own way."""
    weights: Weights = {}
    row: Row | None = None
    with eager(network.model):
        for side, inputs in ((network.encoder, encoder), (network.decoder, decoder)):
            if side is not None and inputs is not None:
                out = side.body(**side.arguments(inputs, row), output_attentions=True)
                own: Group = "encoder" if side is network.encoder else "decoder"
                weights |= {(own, layer): found for layer, found in enumerate(out.attentions or ())}
                weights |= {("cross", layer): found for layer, found in enumerate(getattr(out, "cross_attentions", None) or ())}
                row = Row(out.last_hidden_state.flatten(0, 1), inputs.packing)
    assert row is not None
    return weights, row


def as_vectors(side: Side | None, inputs: Inputs | None) -> Inputs | None:
    """The same tokens, looked up beforehand."""
    return None if side is None or inputs is None else inputs._replace(tokens=side.lookup(inputs.tokens))


def step_by_step(network: TransformersNetwork, encoder: Inputs | None, decoder: Inputs | None) -> Float[Tensor, "N W"]:
    """The decoder's hidden states, its last tokens read one at a time."""
    assert decoder is not None
    length, batch = decoder.packing.lengths[0], len(decoder.packing.lengths)
    ids, caches = decoder.tokens.view(batch, length), tuple(Cache() for _ in range(batch))
    parts: list[Tensor] = []
    for chunk in ids.split([length - 2, 1, 1], dim=1):
        row = network(encoder if not parts else None, Inputs(chunk.flatten(), Packing((chunk.shape[1],) * batch), caches=caches))
        parts.append(row.x.unflatten(0, (batch, -1)))
    return torch.cat(parts, dim=1).flatten(0, 1)


def run_whole(network: TransformersNetwork, source: Inputs, target: Inputs) -> Float[Tensor, "N V"]:
    """The logits as transformers makes them."""
    batch = len(source.packing.lengths)
    both = network.encoder is not None and network.decoder is not None
    given = {"input_ids": source.tokens.view(batch, -1)}
    if both:
        given["decoder_input_ids"] = target.tokens.view(batch, -1)
    with eager(network.model):
        return network.model(**given).logits.flatten(0, 1)

"""A decoder's steps in C: one token of each text through all layers in one call. kqv/transformer.py says what is computed.

What a step costs is reading the weights, so that they are kept a second time in the smallest form that they can be had back from;
beside that, some 300 operations of torch for a token would cost as much again.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kqv.config import ModelConfig
from kqv.native.arena import Arena
from kqv.native.decoder import CLayer, CModel, decode
from kqv.native.library import library
from kqv.native.matrices import CMatrix, Matrix, keep
from kqv.native.shapes import Shelf, shape
from kqv.native.structures import full
from kqv.network import Network
from kqv.positions import frequencies
from kqv.transformer import Block, Inputs, Stack, Transformer

SLACK = 512
"""Bytes beside a weight that its smallest form may take: margins, and the ends of lines."""


class Decoded(NamedTuple):
    """Of r texts' next tokens."""

    hidden: Float[Tensor, "r W"]
    logits: Float[Tensor, "r V"]
    head_outputs: Float[Tensor, "L r H D"]
    weights: list[Float[Tensor, "L H _"] | None]
    """Each text's attention to what was read of it, this token included, where it was asked for."""


def plan(network: Network) -> "Plan | None":
    """How the network's steps run in C; None where they can't, and torch's are taken. Its weights must not change from here on."""
    if not isinstance(network, Transformer) or network.decoder is None or not serves(network) or library() is None:
        return None
    return Plan(network.config, network.decoder, network)


def serves(transformer: Transformer) -> bool:
    """Whether decode.c has all that the model is made of."""
    config = transformer.config
    weights = {(parameter.device.type, parameter.dtype) for parameter in transformer.parameters()}
    return (
        config.architecture == "decoder"
        and config.head == "linear"
        and config.positions not in ("relative", "linear")  # they add to the scores
        and weights in ({("cpu", torch.float32)}, {("cpu", torch.bfloat16)})
    )


class Plan:
    """A decoder as C reads it, made once for a model; it shares with the model what has no smaller form."""

    def __init__(self, config: ModelConfig, decoder: Stack, transformer: Transformer) -> None:
        assert transformer.head is not None
        self.decoder, self.config = decoder, config
        self._shelf = Shelf()
        self.matrices: list[Matrix] = []
        self._arena = Arena(sum(weight.numel() * weight.element_size() + SLACK for weight in transformer.parameters()))
        layers = (CLayer * config.decoder_layers)(
            *(self._layer(block, window) for block, window in zip(decoder.blocks, config.windows, strict=True))
        )
        self._model = CModel(
            layers=self._shelf.put(layers),
            frequencies=self._shelf.numbers(frequencies(config)) if config.positions == "rotary" else None,
            final_norm=self._shelf.norm(decoder.final_norm),
            head=self._matrix(transformer.head.projection),
            num_layers=config.decoder_layers,
            shape=shape(config),
            head_scale=config.head_scale,
        )

    def step(self, inputs: Inputs, watched: Sequence[bool]) -> Decoded:
        """Read one token of each text; the weights of those that are watched are kept. Where it fails, the caches are as before."""
        config, caches = self.config, inputs.caches
        lengths, layers, heads = [cache.length for cache in caches], config.decoder_layers, config.num_heads
        x = self.decoder.embedding(inputs).float().contiguous()
        outputs, logits = full(layers, len(x), heads, config.d_head), full(len(x), config.vocabulary_size)
        weights = [full(layers, heads, length + 1) if wanted else None for length, wanted in zip(lengths, watched, strict=True)]
        decode(self._model, x, outputs, logits, [cache.open() for cache in caches], weights, lengths)
        for cache in caches:
            cache.close()
        return Decoded(x, logits, outputs, weights)

    @cached_property
    def factors(self) -> Float[Tensor, "L H R D"]:
        """Of each layer's output projection: see `OutputProjection.factors`."""
        return torch.stack([block.self_attention.projection.factors for block in self.decoder.blocks])

    def _layer(self, block: Block, window: int) -> CLayer:
        attention, feed_forward = block.self_attention, block.feed_forward
        return CLayer(
            **self._shelf.norms(block.self_attention_norm, block.feed_forward_norm, attention.query_norm, attention.key_norm),
            in_=self._matrix(attention.in_projection),
            out=self._matrix(attention.out_projection),
            up=self._matrix(feed_forward.up),
            down=self._matrix(feed_forward.down),
            window=window,
        )

    def _matrix(self, linear: nn.Linear) -> CMatrix:
        matrix = keep(linear.weight, linear.bias)
        moved = matrix.moved(self._arena)
        if matrix.numbers.data_ptr() == linear.weight.data_ptr():
            linear.weight.data = moved.numbers  # the model reads it there too, so that there is one of it
        self.matrices.append(moved)
        return moved.structure

"""What layers are made of besides matrices, as shape.h wants it."""

import ctypes
from typing import Any

from torch import Tensor, nn

from kqv.config import ModelConfig
from kqv.native.structures import fields

ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu")
"""By their numbers in shape.h."""


class CShape(ctypes.Structure):
    """`Shape` in shape.h."""

    _fields_ = fields(
        long="width heads key_heads head_width inner root_mean_square norm_first gated activation", float="epsilon scale"
    )


class CNorm(ctypes.Structure):
    """`Norm` in shape.h."""

    _fields_ = fields(pointer="weight bias")


def shape(config: ModelConfig) -> CShape:
    """The sizes and kinds of a model's layers."""
    return CShape(
        width=config.d_model,
        heads=config.num_heads,
        key_heads=config.num_key_value_heads,
        head_width=config.d_head,
        inner=config.d_feed_forward,
        root_mean_square=config.norm == "rms",
        norm_first=config.norm_placement == "pre",
        gated=config.gated,
        activation=ACTIVATIONS.index(config.activation),
        epsilon=config.norm_epsilon,
        scale=config.attention_scale,
    )


class Shelf:
    """Keeps what C's structures have addresses of."""

    def __init__(self) -> None:
        self._kept: list[object] = []

    def put(self, structure: ctypes.Structure | ctypes.Array[Any]) -> int:
        """Where a structure lies."""
        self._kept.append(structure)
        return ctypes.addressof(structure)

    def numbers(self, tensor: Tensor) -> int:
        """Where the numbers lie as float32."""
        own = tensor.detach().float().contiguous()
        self._kept.append(own)
        return own.data_ptr()

    def norm(self, norm: nn.Module) -> CNorm:
        """A norm's factors, and where it has them what it adds."""
        if isinstance(norm, nn.Identity):
            return CNorm()
        weight, bias = norm.weight, getattr(norm, "bias", None)
        assert isinstance(weight, Tensor)
        return CNorm(self.numbers(weight), None if bias is None else self.numbers(bias))

    def norms(self, attention: nn.Module, feed_forward: nn.Module, query: nn.Module, key: nn.Module) -> dict[str, Any]:
        """A layer's norms, by the names that C has for them."""
        return {
            "attention_norm": self.norm(attention),
            "feed_forward_norm": self.norm(feed_forward),
            "query_norm": self.norm(query).weight,
            "key_norm": self.norm(key).weight,
        }

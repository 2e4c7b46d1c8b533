"""Where a token is: tables that are added to the embeddings, and rotations of queries and keys. Biases of the scores are in
`kqv.attention.biases`."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kqv.config import ModelConfig, RopeScaling


def sinusoidal(context: int, d_model: int) -> Float[Tensor, "context d_model"]:
    """sin(p / 10000^(2i/d)) in even columns, cos of the same in odd ones (Vaswani et al., 2017, section 3.5).

    Computed in float64 and rounded once; on the CPU even while a model is laid out on the meta device, since a checkpoint need
    not hold it. Position 0 is 0, 1, 0, 1, …
    """
    position = torch.arange(context, dtype=torch.float64, device="cpu")[:, None]
    pair = torch.arange(0, d_model, 2, dtype=torch.float64, device="cpu")
    angle = position / 10000 ** (pair / d_model)
    table = torch.empty(context, d_model, dtype=torch.float64, device="cpu")
    table[:, 0::2] = angle.sin()
    table[:, 1::2] = angle.cos()[:, : d_model // 2]
    return table.to(torch.get_default_dtype())


ROWS = 1024
"""Tokens that are turned at once."""


@dataclass(frozen=True, eq=False)
class Rotation:
    """Rotary positions (Su et al., 2021) of N packed tokens: the i-th and the (i + D/2)-th number of a head turn as a pair."""

    cos: Float[Tensor, "N D"]
    sin: Float[Tensor, "N D"]

    def turn(self, x: Float[Tensor, "N H D"]) -> None:
        """Turn each token's heads by its own angles, in place, some tokens at a time: no tensor as large is needed beside them."""
        for part, cos, sin in zip(x.split(ROWS), self.cos.split(ROWS), self.sin.split(ROWS), strict=True):
            first, second = part.chunk(2, dim=-1)
            turned = torch.cat((-second, first), dim=-1).mul_(sin[:, None])
            part.mul_(cos[:, None]).add_(turned)


def rotation(config: ModelConfig, positions: Int[Tensor, " N"], dtype: torch.dtype) -> Rotation:
    """The rotation of tokens at the given positions; angles are computed in float32 at least, whatever the model's type."""
    angle = positions[:, None] * frequencies(config).to(positions.device)
    angle = torch.cat((angle, angle), dim=-1)
    return Rotation(angle.cos().to(dtype), angle.sin().to(dtype))


def frequencies(config: ModelConfig) -> Float[Tensor, " half"]:
    """Radians a position of each pair: θ^(−2i/D), stretched where the config says so."""
    pair = torch.arange(0, config.d_head, 2, dtype=torch.int64).float()
    frequency = 1.0 / config.rope_theta ** (pair / config.d_head)
    return frequency if config.rope_scaling is None else stretched(frequency, config.rope_scaling)


def stretched(frequency: Float[Tensor, " half"], scaling: RopeScaling) -> Float[Tensor, " half"]:
    """All frequencies divided by the factor, or with "llama3" only the low ones, with a smooth passage between (Llama 3.1)."""
    if scaling.kind == "linear":
        return frequency / scaling.factor
    turns = scaling.original_context * frequency / (2 * math.pi)  # full turns within the original context
    smooth = (turns - scaling.low_frequency_factor) / (scaling.high_frequency_factor - scaling.low_frequency_factor)
    keep = smooth.clamp(0, 1)
    return frequency * (keep + (1 - keep) / scaling.factor)

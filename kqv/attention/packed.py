"""Attention over a packed batch: every sequence by itself, whatever else is in the row."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kqv.attention.fused import fused
from kqv.attention.masks import Everything, Mask
from kqv.attention.result import AttentionResult
from kqv.config import Group
from kqv.packing import Packing


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One layer's attention, about to run: N packed query tokens, M packed key tokens, heads of width D."""

    group: Group
    layer: int
    q: Float[Tensor, "N H D"]
    k: Float[Tensor, "M G D"]
    v: Float[Tensor, "M G D"]
    queries: Packing
    keys: Packing
    w_o: Float[Tensor, "W HD"]
    """The layer's output projection, as torch stores it; head h reads its columns h·D … (h+1)·D."""
    mask: Mask = Everything()

    def sequences(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """q, k, v of each sequence as [1, H, T, D], [1, G, S, D] and [1, G, S, D]."""
        q, k, v = self.queries.split(self.q), self.keys.split(self.k), self.keys.split(self.v)
        for sequence in zip(q, k, v, strict=True):
            yield tuple(tensor.transpose(0, 1).unsqueeze(0) for tensor in sequence)  # type: ignore[misc]


Attend = Callable[[AttentionCall], Float[Tensor, "N H D"]]
"""How a model attends: a packed call in, the heads' outputs out."""


def join(call: AttentionCall, results: list[AttentionResult]) -> Float[Tensor, "N H D"]:
    """The sequences' outputs as one packed row, in the model's dtype."""
    return torch.cat([result.output[0].transpose(0, 1) for result in results]).to(call.q.dtype)


def attend_fused(call: AttentionCall) -> Float[Tensor, "N H D"]:
    """The packed call by the fused kernel, a sequence at a time."""
    return join(call, [fused(q, k, v, mask=call.mask) for q, k, v in call.sequences()])

"""Attention over a packed batch: every sequence by itself, whatever else is in the row."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from kqv.attention.biases import Bias, ShiftedBias
from kqv.attention.fused import fused
from kqv.attention.longformer import GlobalHeads, Longformer
from kqv.attention.masks import Everything, Mask, Shifted
from kqv.attention.result import AttentionResult
from kqv.attention.variants import Variant
from kqv.config import Group
from kqv.packing import Packing


@dataclass(frozen=True, eq=False)
class SequenceAttention:
    """One sequence's share of a call, as the attention functions take it."""

    q: Float[Tensor, "1 H T D"]
    k: Float[Tensor, "1 G S D"]
    v: Float[Tensor, "1 G S D"]
    mask: Mask
    bias: Bias | None
    scale: float

    def by(self, attention: Callable[..., AttentionResult]) -> AttentionResult:
        """Attend by one of the attention functions."""
        return attention(self.q, self.k, self.v, mask=self.mask, bias=self.bias, scale=self.scale)


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One layer's attention, about to run: N packed query tokens, and for each sequence its m keys and values."""

    group: Group
    layer: int
    q: Float[Tensor, "N H D"]
    queries: Packing
    keys: tuple[Float[Tensor, "_ G D"], ...]
    values: tuple[Float[Tensor, "_ G D"], ...]
    w_o: Float[Tensor, "W HD"]
    """The layer's output projection, as torch stores it; head h reads its columns h·D … (h+1)·D."""
    mask: Mask
    bias: Bias | None
    scale: float
    own: Longformer | None = field(default=None, kw_only=True)
    """What the layer attends by, where that isn't the softmax over all keys that the mask leaves."""
    global_heads: Callable[[], tuple[GlobalHeads, ...]] | None = field(default=None, kw_only=True)
    """Makes each sequence's queries, keys and values for global tokens, where the layer has projections to them."""

    def variant(self, index: int, override: Variant | None = None) -> Variant | None:
        """What a sequence attends by instead of the softmax over all that the mask leaves: an override, or the layer's own."""
        chosen = self.own if override is None else override.at(self.layer)
        if not isinstance(chosen, Longformer):
            return chosen
        if self.own is not None and (chosen is self.own or chosen.window is None):
            whole = len(self.keys[index]) // chosen.widest  # a layer's own window may well be wider than a text
            chosen = replace(chosen, window=2 * min(self.own.side, whole))
        if not chosen.global_tokens or self.global_heads is None:
            return chosen
        return replace(chosen, global_heads=self.global_heads()[index])

    def sequences(self) -> Iterator[SequenceAttention]:
        """Each sequence by itself. In self-attention its queries are the last of its tokens, the others were read before."""
        for q, k, v in zip(self.queries.split(self.q), self.keys, self.values, strict=True):
            read = 0 if self.group == "cross" else len(k) - len(q)
            q, k, v = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (q, k, v))
            yield SequenceAttention(q, k, v, shift_mask(self.mask, read), shift_bias(self.bias, read), self.scale)


def shift_mask(mask: Mask, by: int) -> Mask:
    """The mask for queries that begin `by` places after the first key."""
    return Shifted(mask, by) if by and not isinstance(mask, Everything) else mask


def shift_bias(bias: Bias | None, by: int) -> Bias | None:
    """The bias for queries that begin `by` places after the first key."""
    return ShiftedBias(bias, by) if by and bias is not None else bias


Attend = Callable[[AttentionCall], Float[Tensor, "N H D"]]
"""How a model attends: a packed call in, the heads' outputs out."""


def join(call: AttentionCall, results: list[AttentionResult]) -> Float[Tensor, "N H D"]:
    """The sequences' outputs as one packed row, in the model's dtype."""
    return torch.cat([result.output[0].transpose(0, 1) for result in results]).to(call.q.dtype)


def attend_fused(call: AttentionCall) -> Float[Tensor, "N H D"]:
    """The packed call by the fused kernel, or as the layer attends by itself, a sequence at a time."""
    return join(call, [sequence.by(call.variant(index) or fused) for index, sequence in enumerate(call.sequences())])

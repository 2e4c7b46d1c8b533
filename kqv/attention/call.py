"""What a layer of a model asks of attention: a packed batch, every sequence of which attends by itself."""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kqv.attention.biases import Bias, ShiftedBias
from kqv.attention.longformer import GlobalHeads, Longformer
from kqv.attention.masks import Everything, Mask, Shifted
from kqv.attention.variants import Variant
from kqv.config import Group
from kqv.native import figures as native
from kqv.packing import Packing
from kqv.scratch import Scratch

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class OutputProjection:
    """A layer's output projection, as torch stores it; head h reads its columns h·D … (h+1)·D."""

    weight: Float[Tensor, "W HD"]
    num_heads: int

    @cached_property
    def factors(self) -> Float[Tensor, "H R D"]:
        """R of each head's W_O = QR, so that ‖W_O z‖ = ‖R z‖: the length of a vector of D numbers in place of W."""
        weight = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        return torch.linalg.qr(weight.unflatten(-1, (self.num_heads, -1)).transpose(0, 1), mode="r").R.contiguous()

    def lengths(self, heads: Float[Tensor, "N H D"]) -> Float[Tensor, "H N"]:
        """‖W_O z‖: how long what each head adds to the residual stream is."""
        found = native.lengths(heads, self.factors)
        return (heads.transpose(0, 1).to(self.factors.dtype) @ self.factors.mT).norm(dim=-1) if found is None else found


@dataclass(frozen=True, eq=False)
class SequenceAttention:
    """One sequence's share of a call, as the attention functions take it."""

    q: Float[Tensor, "1 H T D"]
    k: Float[Tensor, "1 G S D"]
    v: Float[Tensor, "1 G S D"]
    mask: Mask
    bias: Bias | None
    scale: float

    def by(self, attention: Callable[..., Result]) -> Result:
        """Attend by one of the attention functions."""
        return attention(self.q, self.k, self.v, mask=self.mask, bias=self.bias, scale=self.scale)


class Limits(NamedTuple):
    """The keys low … high − 1 of its sequence that each query of a batch sees."""

    low: Int[Tensor, " N"]
    high: Int[Tensor, " N"]


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One layer's attention, about to run: N packed query tokens, and for each sequence its m keys and values."""

    group: Group
    layer: int
    q: Float[Tensor, "N H D"]
    queries: Packing
    keys: tuple[Float[Tensor, "_ G D"], ...]
    values: tuple[Float[Tensor, "_ G D"], ...]
    projection: OutputProjection
    """What the heads' outputs go through afterwards."""
    mask: Mask
    bias: Bias | None
    scale: float
    own: Longformer | None = field(default=None, kw_only=True)
    """What the layer attends by, where that isn't the softmax over all keys that the mask leaves."""
    global_heads: Callable[[], tuple[GlobalHeads, ...]] | None = field(default=None, kw_only=True)
    """Makes each sequence's queries, keys and values for global tokens, where the layer has projections to them."""
    scratch: Scratch = field(default_factory=Scratch, kw_only=True)
    """Where the outcome lies until the next layer attends."""

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

    def only(self, index: int) -> "AttentionCall":
        """The call of one sequence, whose outcome doesn't go where the others' go."""
        q = self.queries.split(self.q)[index]
        keys, values = (self.keys[index],), (self.values[index],)
        return replace(self, q=q, queries=Packing((len(q),)), keys=keys, values=values, scratch=Scratch())

    def part(self, index: int, queries: slice) -> "AttentionCall":
        """The call of some queries of one sequence, as if they were other tokens than its keys."""
        q, keys, values = self.queries.split(self.q)[index], self.keys[index], self.values[index]
        mask, bias = self.rules(index, len(keys) - len(q) if self.same else 0)
        mask, bias, q = shift_mask(mask, queries.start), shift_bias(bias, queries.start), q[queries]
        packing = Packing((len(q),))
        return AttentionCall("cross", self.layer, q, packing, (keys,), (values,), self.projection, mask, bias, self.scale)

    @property
    def sight(self) -> Hashable:
        """Calls of one pass that are equal in this let their queries see the same keys."""
        return self.group, self.mask

    @property
    def same(self) -> bool:
        """Whether queries and keys are the same tokens, the queries being the last of them."""
        return self.group != "cross"

    @property
    def bias_of_pairs(self) -> bool:
        """Whether there is a bias that isn't told from how far apart a query and a key are."""
        return self.bias is not None and not self.bias.relative

    @property
    def key_lengths(self) -> tuple[int, ...]:
        """Keys of each sequence."""
        return tuple(map(len, self.keys))

    def limits(self) -> Limits | None:
        """What the queries see, where the mask lets each see one stretch of keys."""
        return limits_of(self.mask, self.queries, self.key_lengths, self.same)

    def sequence(self, index: int) -> SequenceAttention:
        """One sequence by itself. In self-attention its queries are the last of its tokens, the others were read before."""
        start = self.queries.offsets[index]
        q, k, v = self.q[start : start + self.queries.lengths[index]], self.keys[index], self.values[index]
        read = len(k) - len(q) if self.same else 0
        q, k, v = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (q, k, v))
        return SequenceAttention(q, k, v, *self.rules(index, read), self.scale)

    def rules(self, index: int, read: int) -> tuple[Mask, Bias | None]:
        """A sequence's mask and bias, for queries that begin so many places after its first key."""
        return shift_mask(self.mask, read), shift_bias(self.bias, read)

    def sequences(self) -> Iterator[SequenceAttention]:
        """Each sequence by itself."""
        return map(self.sequence, range(len(self.keys)))


def limits_of(mask: Mask, queries: Packing, keys: tuple[int, ...], same: bool) -> Limits | None:
    """The limits of a mask, where it lets each query see one stretch of keys."""
    nothing = torch.zeros(0, dtype=torch.long)
    return None if mask.interval(nothing, nothing) is None else stretches(mask, queries, keys, same)


@lru_cache(maxsize=64)  # the layers of a model ask the same
def stretches(mask: Mask, queries: Packing, keys: tuple[int, ...], same: bool) -> Limits:
    """The limits of a mask that lets each query see one stretch of keys."""
    read = tuple(there - asking if same else 0 for there, asking in zip(keys, queries.lengths, strict=True))
    place = queries.positions(torch.device("cpu"), read)
    interval = mask.interval(place, torch.tensor(keys).repeat_interleave(torch.tensor(queries.lengths)))
    assert interval is not None
    return Limits(interval[0].int(), interval[1].int())


def shift_mask(mask: Mask, by: int) -> Mask:
    """The mask for queries that begin `by` places after the first key."""
    return Shifted(mask, by) if by and not isinstance(mask, Everything) else mask


def shift_bias(bias: Bias | None, by: int) -> Bias | None:
    """The bias for queries that begin `by` places after the first key."""
    return ShiftedBias(bias, by) if by and bias is not None else bias


Attend = Callable[[AttentionCall], Float[Tensor, "N H D"]]
"""How a model attends: a packed call in, the heads' outputs out."""

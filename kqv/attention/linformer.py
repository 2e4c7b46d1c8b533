"""Linformer's attention (Wang et al., 2020): the keys of a sequence are mixed down to a few, and so are the values."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from kqv.attention.biases import Bias
from kqv.attention.dense import repeat_heads
from kqv.attention.drawing import gaussian, generator
from kqv.attention.masks import Everything, Mask
from kqv.attention.result import AttentionResult
from kqv.errors import InputError, UnsupportedError

CHUNK = 256
"""Queries that are attended for at once, so that their scores stay in the cache."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Linformer:
    """softmax(Q·(E·K)ᵀ·scale)·(F·V), for E and F [rank, keys] that are given, or drawn from N(0, 1/rank) by a seed.

    Called like any attention function, with `weights` whether the maps are wanted. They are softmax(Q·(E·K)ᵀ·scale)·F, by which the
    values are summed; they can be negative, and needn't add up to 1. Raises `InputError`, located within `attention`.
    """

    kind: ClassVar[Literal["linformer"]] = "linformer"
    distributes: ClassVar[bool] = False
    """Whether the weights of a query are shares of a whole."""
    scores_pairs: ClassVar[bool] = False
    """Whether it has scores of pairs of tokens."""
    crosses: ClassVar[bool] = True
    """Whether it can be the attention of one sequence to another."""

    rank: int | None = None
    """How many are left of all keys; given matrices say it themselves."""
    e: Float[Tensor, "..."] | None = None
    """What mixes the keys: [rank, keys] for all heads, or [heads, rank, keys]. Drawn, if it isn't given."""
    f: Float[Tensor, "..."] | None = None
    """What mixes the values, likewise; without it, but with `e`, that mixes both."""
    seed: int = 0
    share_heads: bool = False
    """Draw the same for all heads."""
    share_values: bool = False
    """Draw the same for values as for keys."""
    share_layers: bool = False
    """Draw the same for all layers of a model; given matrices always are."""
    layer: int = 0
    """Where in a model; each layer draws its own."""

    def __post_init__(self) -> None:
        if (self.rank is None) == (self.e is None):
            message = "give either the rank, for projections that are drawn, or the projections e, and f beside it"
            raise InputError(message, ("attention", "rank"))
        if self.rank is not None and self.rank < 1:
            message = (
                f"a rank of {self.rank} leaves no keys; take 1 or more, and at most as many as there are keys to save any work"
            )
            raise InputError(message, ("attention", "rank"))
        if self.f is not None and self.e is None:
            raise InputError("f mixes the values as e mixes the keys; give e too, or neither", ("attention", "f"))
        for name, matrix in (("e", self.e), ("f", self.f)):
            if matrix is not None and (matrix.ndim not in (2, 3) or 0 in matrix.shape or not matrix.isfinite().all()):
                message = f"{name} is finite numbers [rank, keys] or [heads, rank, keys], not {list(matrix.shape)}"
                raise InputError(message, ("attention", name))
        if self.e is not None and self.f is not None and self.e.shape[-2] != self.f.shape[-2]:
            message = f"e and f leave as many keys as values, not {self.e.shape[-2]} and {self.f.shape[-2]}"
            raise InputError(message, ("attention", "f"))

    @property
    def left(self) -> int:
        """How many keys are left."""
        return self.e.shape[-2] if self.e is not None else self.rank or 0

    def at(self, layer: int) -> "Linformer":
        """As it is in one layer of a model."""
        return self if self.share_layers else replace(self, layer=layer)

    def held(self, shape: tuple[int, int, int, int]) -> int:
        """Numbers in memory at once beside queries, keys, values and maps."""
        heads, queries, keys, width = shape
        return heads * self.left * (min(CHUNK, queries) + 2 * keys + 2 * width)

    def check(self, shape: tuple[int, int, int, int], mask: Mask, biased: bool) -> None:
        """Raise `InputError` where this attention can't serve a call of such heads, queries, keys and width."""
        heads, _, keys, _ = shape
        if not isinstance(mask, Everything):
            message = "linformer mixes all keys, later ones too, so every query sees every key"
            raise UnsupportedError(
                f'{message}; leave the mask at "none", or take performer or longformer, which can be causal', ("mask",)
            )
        if biased:
            message = "linformer's scores are of mixed keys, to which no bias of single ones can be added"
            raise UnsupportedError(f"{message}; leave it out, or take longformer", ("bias",))
        for name, matrix in (("e", self.e), ("f", self.f)):
            if matrix is not None and matrix.shape[-1] != keys:
                message = f"{name} is {list(matrix.shape)}, which is for {matrix.shape[-1]} keys, and there are {keys}"
                raise InputError(f"{message}; send one for {keys}, or a rank, for projections that are drawn", ("attention", name))
            if matrix is not None and matrix.ndim == 3 and matrix.shape[0] not in (1, heads):
                message = f"{name} has {matrix.shape[0]} heads, and there are {heads}; give one for each, or [rank, keys] for all"
                raise InputError(message, ("attention", name))

    def __call__(
        self,
        q: Float[Tensor, "B H T D"],
        k: Float[Tensor, "B G S D"],
        v: Float[Tensor, "B G S E"],
        *,
        mask: Mask = Everything(),
        bias: Bias | None = None,
        scale: float | None = None,
        weights: bool = False,
    ) -> AttentionResult:
        """The output, and with `weights` the maps; half precision is computed in float32."""
        heads, queries, keys = q.shape[1], q.shape[2], k.shape[2]
        self.check((heads, queries, keys, q.shape[3]), mask, bias is not None)
        dtype = torch.promote_types(q.dtype, torch.float32)
        q, k, v = (tensor.to(dtype) for tensor in (q, repeat_heads(k, heads), repeat_heads(v, heads)))
        e, f = (matrix.to(q.device, dtype) for matrix in self.projections(heads, keys))
        mixed_keys, mixed_values = e @ k * (1 / math.sqrt(q.shape[-1]) if scale is None else scale), f @ v
        shares = (torch.softmax(rows @ mixed_keys.mT, dim=-1) for rows in q.split(CHUNK, -2))
        if not weights:
            return AttentionResult(output=torch.cat([each @ mixed_values for each in shares], -2))
        parts = [(each @ mixed_values, each @ f) for each in shares]
        output, maps = (torch.cat(each, -2) for each in zip(*parts, strict=True))
        everything = torch.ones((1, 1, queries, keys), dtype=torch.bool, device=q.device)
        return AttentionResult(output=output, weights=maps, visible=everything)

    def projections(self, heads: int, keys: int) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        """E and F, for all heads alike or one for each."""
        if self.e is not None:
            return self.e, self.e if self.f is None else self.f
        e = self.draw(heads, keys, 0)
        return e, e if self.share_values else self.draw(heads, keys, 1)

    def draw(self, heads: int, keys: int, place: int) -> Float[Tensor, "H rank keys"]:
        shape = (1 if self.share_heads else heads, self.left, keys)
        return gaussian(shape, generator(self.seed, self.layer, place)) / math.sqrt(self.left)

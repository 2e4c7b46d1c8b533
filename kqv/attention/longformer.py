"""Longformer's attention (Beltagy et al., 2020): a sliding window, and a few tokens that see and are seen by all.

Work is done on the band alone, a block of queries with the keys in its reach: time and memory are linear in the number of tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kqv.attention.biases import Bias, PickedBias
from kqv.attention.dense import dense, repeat_heads
from kqv.attention.masks import Everything, Index, Mask, Picked, Visible
from kqv.attention.result import AttentionResult
from kqv.errors import InputError, UnsupportedError

BLOCK = 128
"""Queries that are attended for at once: enough for the matrix product, few enough for the cache."""


class GlobalHeads(NamedTuple):
    """Queries, keys and values of all tokens by the second projections, by which the global tokens look: each of the shape that
    they have by the first ones, [T, D] of one head, [H, T, D] or [B, H, T, D]."""

    q: Float[Tensor, "..."]
    k: Float[Tensor, "..."]
    v: Float[Tensor, "..."]

    def beside(self, *local: Float[Tensor, "B _ T _"]) -> "GlobalHeads":
        """These for as many heads as there are queries of. Raises `InputError` unless they are of the shapes of the local ones."""
        lifted = [given[(None,) * (4 - given.ndim)].to(like.device) for given, like in zip(self, local, strict=True)]
        for name, given, like in zip(self._fields, lifted, local, strict=True):
            if given.shape != like.shape or not given.isfinite().all():
                message = (
                    f"global_{name} is finite numbers of the shape of {name}, {list(like.shape[-3:])}, not {list(given.shape[-3:])}"
                )
                raise InputError(message, ("attention", f"global_{name}"))
        return GlobalHeads(*(repeat_heads(given, local[0].shape[1]) for given in lifted))


@dataclass(frozen=True, eq=False, kw_only=True)
class Longformer:
    """Each query sees window/2 keys to either side, itself, and the global tokens; a global token sees every key.

    Called like any attention function, with `weights` whether the maps are wanted: they are what takes memory for all pairs. A mask
    hides what it hides beside all this; a bias is added to the scores. Raises `InputError`, located within `attention`.

    With q = 0 and a window of 2, the middle one of three tokens weighs all of them by ⅓, the first itself and the next by ½.
    """

    kind: ClassVar[Literal["longformer"]] = "longformer"
    distributes: ClassVar[bool] = True
    """Whether the weights of a query are shares of a whole."""
    scores_pairs: ClassVar[bool] = True
    """Whether it has scores of pairs of tokens."""
    crosses: ClassVar[bool] = False
    """Whether it can be the attention of one sequence to another."""

    window: int | None = None
    """Even, as in the paper and in transformers: half of it to either side. None is for a model that has windows of its own."""
    dilation: int | tuple[int, ...] = 1
    """Only every so manieth token is in the window, which reaches so much further: the same for all heads, or one a head."""
    global_tokens: tuple[int, ...] = ()
    """Indices of tokens, negative ones counted from the end."""
    global_heads: GlobalHeads | None = None
    """How the global tokens look; without it by the same queries, keys and values as all others."""

    def __post_init__(self) -> None:
        if self.window is not None:
            check_window(self.window)
        if min(self.dilation if isinstance(self.dilation, tuple) else (self.dilation,), default=1) < 1:
            message = f"a dilation is 1 or more, 1 for neighbours, not {self.dilation}"
            raise InputError(message, ("attention", "dilation"))

    def at(self, layer: int) -> "Longformer":
        """The same in every layer."""
        return self

    def held(self, shape: tuple[int, int, int, int]) -> int:
        """Numbers in memory at once beside queries, keys, values and maps: those of one block."""
        heads, queries, keys, _ = shape
        return heads * min(BLOCK, queries) * min(BLOCK + 2 * self.side, keys)

    @property
    def side(self) -> int:
        """How many neighbours a token sees to either side."""
        if self.window is None:
            raise InputError("window is missing; only a Longformer checkpoint has windows of its own", ("attention", "window"))
        return self.window // 2

    @property
    def widest(self) -> int:
        """The largest dilation of any head."""
        return max(self.dilation) if isinstance(self.dilation, tuple) else self.dilation

    def check(self, shape: tuple[int, int, int, int], mask: Mask, biased: bool) -> None:
        """Raise `InputError` where this attention can't serve a call of such heads, queries, keys and width."""
        heads, queries, keys, _ = shape
        if queries != keys:
            message = f"longformer's window needs queries and keys of one sequence, not {queries} queries and {keys} keys"
            raise UnsupportedError(f"{message}; linformer and performer serve cross-attention", ("attention", "kind"))
        self.check_dilation(heads)
        self.check_reach(keys)
        for place, index in enumerate(self.global_tokens):
            if not -keys <= index < keys:
                message = f"global token {index} is outside the sequence of {keys}: 0 to {keys - 1}, or -{keys} to -1"
                raise InputError(message, ("attention", "global_tokens", place))

    def check_dilation(self, heads: int) -> None:
        if isinstance(self.dilation, tuple) and len(self.dilation) != heads:
            message = f"{len(self.dilation)} dilations are given for {heads} heads; give one for each, or one number for all"
            raise InputError(message, ("attention", "dilation"))

    def check_reach(self, keys: int) -> None:
        """A window may go past the ends of the sequence from every token, but not past its whole length."""
        widest = self.widest
        reach = self.side * widest
        if reach > keys:
            most = f"at most {2 * (keys // widest)} with this dilation" if keys >= widest else "a smaller dilation"
            message = f"the window reaches {reach} tokens to either side, beyond the sequence of {keys}; take {most}"
            raise InputError(f"{message}, or dense attention, which sees all", ("attention", "window"))

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
        """What `dense` returns under the window's mask, but for `scores`; without `weights` only output and log-sum-exp."""
        self.check((*q.shape[1:3], *k.shape[2:]), mask, bias is not None)
        global_tokens = torch.tensor(
            [index % q.shape[2] for index in self.global_tokens], dtype=torch.long, device=q.device
        ).unique()
        is_global = torch.zeros(q.shape[2], dtype=torch.bool, device=q.device).index_fill(0, global_tokens, True)
        canvas = Canvas(q, v, weights)
        local = GlobalHeads(q, repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1]))
        for heads, dilation in self.head_groups(q.shape[1], q.device):
            within = mask & Sliding(self.side * dilation, dilation, is_global)
            for rows, keys in blocks(is_global, self.side, dilation):
                canvas.attend(local, heads, rows, torch.cat((global_tokens, keys)), within, bias, scale)
        everywhere = torch.arange(q.shape[2], device=q.device)
        wide = local if self.global_heads is None else self.global_heads.beside(q, k, v)
        for rows in global_tokens.split(BLOCK):
            canvas.attend(wide, torch.arange(q.shape[1], device=q.device), rows, everywhere, mask, bias, scale)
        return canvas.result()

    def head_groups(self, heads: int, device: torch.device) -> Iterator[tuple[Int[Tensor, " h"], int]]:
        """The heads of each dilation."""
        dilations = self.dilation if isinstance(self.dilation, tuple) else (self.dilation,) * heads
        for dilation, group in groupby(sorted(range(heads), key=dilations.__getitem__), dilations.__getitem__):
            yield torch.tensor(list(group), device=device), dilation


@dataclass(frozen=True, eq=False)
class Sliding(Mask):
    """Every `dilation`-th key within reach, and the global ones: what a token that isn't global sees."""

    reach: int
    dilation: int
    is_global: Bool[Tensor, " S"]

    def __call__(self, batch: Index, head: Index, query: Index, key: Index) -> Visible:
        offset = key - query
        near = offset.abs() <= self.reach
        return (near if self.dilation == 1 else near & (offset % self.dilation == 0)) | self.is_global[key]


def blocks(is_global: Bool[Tensor, " T"], side: int, dilation: int) -> Iterator[tuple[Int[Tensor, " r"], Int[Tensor, " s"]]]:
    """Queries, a block of those that share their keys at a time, and all the keys that any of them reaches, but for global ones."""
    tokens = torch.arange(len(is_global), device=is_global.device)
    for phase in range(min(dilation, len(tokens))):
        neighbours = tokens[phase::dilation]
        for start in range(0, len(neighbours), BLOCK):
            keys = neighbours[max(0, start - side) : start + BLOCK + side]
            yield neighbours[start : start + BLOCK], keys[~is_global[keys]]


class Canvas:
    """The result, block by block."""

    def __init__(self, q: Float[Tensor, "B H T D"], v: Float[Tensor, "B G T E"], weights: bool) -> None:
        dtype = torch.promote_types(q.dtype, torch.float32)
        rows, maps = q.shape[:3], (*q.shape[:3], q.shape[2])
        self.output = q.new_zeros(*rows, v.shape[-1], dtype=dtype)
        self.logsumexp = q.new_zeros(rows, dtype=dtype)
        self.maps = (
            {
                "weights": q.new_zeros(maps, dtype=dtype),
                "scaled_scores": q.new_full(maps, -torch.inf, dtype=dtype),
                "visible": q.new_zeros(maps, dtype=torch.bool),
            }
            if weights
            else {}
        )

    def attend(
        self, heads_of: GlobalHeads, heads: Tensor, rows: Tensor, keys: Tensor, mask: Mask, bias: Bias | None, scale: float | None
    ) -> None:
        """Let some queries of some heads see some keys."""
        k, v = (tensor[:, heads[:, None], keys] for tensor in heads_of[1:])
        picked = None if bias is None else PickedBias(bias, heads, rows, keys)
        found = dense(heads_of.q[:, heads[:, None], rows], k, v, mask=Picked(mask, heads, rows, keys), bias=picked, scale=scale)
        self.output[:, heads[:, None], rows] = found.output
        assert found.logsumexp is not None
        self.logsumexp[:, heads[:, None], rows] = found.logsumexp
        for name, whole in self.maps.items():
            whole[:, heads[:, None, None], rows[:, None], keys] = getattr(found, name)

    def result(self) -> AttentionResult:
        return AttentionResult(output=self.output, logsumexp=self.logsumexp, **self.maps)


def check_window(window: int) -> None:
    """Raise `InputError` for what can't be split in two sides."""
    if window < 1:
        raise InputError(f"a window of {window} sees nothing around a token; take 2 or more", ("attention", "window"))
    if window % 2:
        even = f"{window - 1} or {window + 1}" if window > 1 else "2"
        message = f"the window is even, half of it to either side of a token; take {even}, not {window}"
        raise InputError(message, ("attention", "window"))

"""Multi-head attention of sequences of vectors: project, attend, join (Vaswani et al., 2017, section 3.2.2)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kqv.attention.attend import attend
from kqv.attention.masks import MaskLike
from kqv.attention.result import AttentionResult
from kqv.attention.variants import Variant
from kqv.errors import InputError, UnsupportedError


@dataclass(frozen=True, eq=False)
class Projections:
    """The four matrices, as they stand in the formula: Q = x·W_Q, K = c·W_K, V = c·W_V, output = Concat(heads)·W_O.

    For x of width W, c of width C and H heads: w_q [W, H·d], w_k [C, H·d], w_v [C, H·e], w_o [H·e, W]; `multi_head` checks that.
    """

    w_q: Tensor
    w_k: Tensor
    w_v: Tensor
    w_o: Tensor


@dataclass(frozen=True, eq=False)
class MultiHeadResult:
    """Every step of multi-head attention, H heads over n queries and m keys."""

    q: Float[Tensor, "H n d"]
    k: Float[Tensor, "H m d"]
    v: Float[Tensor, "H m e"]
    attention: AttentionResult
    """scores, scaled scores and weights [H, n, m], the heads' outputs [H, n, e]."""
    output: Float[Tensor, "n W"]
    """Concat(heads)·W_O."""


def multi_head(
    x: Float[Tensor, "..."],
    projections: Projections,
    num_heads: int,
    *,
    context: Float[Tensor, "..."] | None = None,
    mask: MaskLike = "none",
    bias: Float[Tensor, "..."] | None = None,
    scale: float | None = None,
    attention: Variant | None = None,
    weights: bool = True,
) -> MultiHeadResult:
    """Self-attention of `x` [n, W], or cross-attention of `x` to `context` [m, C]; the rest as for `attend`.

    Raises `InputError` for shapes that don't fit, and for what `attend` refuses.
    """
    source = x if context is None else context
    check_projections(x, source, projections, num_heads)
    q = split_heads(x @ projections.w_q, num_heads)
    k = split_heads(source @ projections.w_k, num_heads)
    v = split_heads(source @ projections.w_v, num_heads)
    if context is not None and attention is not None and not attention.crosses:
        message = f"{attention.kind} is the attention of one sequence to itself, and can't be that of x to a context"
        raise UnsupportedError(f"{message}; leave context out, or take linformer or performer", ("attention", "kind"))
    result = attend(q, k, v, mask=mask, bias=bias, scale=scale, attention=attention, weights=weights)
    return MultiHeadResult(q, k, v, result, join_heads(result.output) @ projections.w_o)


def draw_projections(d_model: int, num_heads: int, seed: int, d_context: int | None = None) -> Projections:
    """Projections drawn from N(0, 1/fan-in), so that queries, keys and values of unit-variance vectors have unit variance.

    The same seed draws the same matrices on every machine. Raises `InputError` where the heads don't divide the width.
    """
    if num_heads < 1 or d_model % num_heads:
        raise InputError(f"num_heads divides the width of x, {d_model}; {num_heads} does not", ("num_heads",))
    generator = torch.Generator().manual_seed(seed)
    widths = (d_model, d_context or d_model, d_context or d_model, d_model)
    return Projections(*(torch.randn(width, d_model, generator=generator) / width**0.5 for width in widths))


def split_heads(row: Float[Tensor, "n Hd"], num_heads: int) -> Float[Tensor, "H n d"]:
    """Neighbouring columns make a head."""
    return row.unflatten(-1, (num_heads, -1)).transpose(0, 1)


def join_heads(heads: Float[Tensor, "H n e"]) -> Float[Tensor, "n He"]:
    """The heads' outputs side by side."""
    return heads.transpose(0, 1).flatten(-2)


def check_projections(x: Tensor, source: Tensor, projections: Projections, num_heads: int) -> None:
    """Raise `InputError` where vectors, matrices and number of heads don't fit each other."""
    if x.ndim != 2 or source.ndim != 2:
        raise InputError(f"x and context are [tokens, width], not {list(x.shape)} and {list(source.shape)}", ("x",))
    given = {"w_q": x.shape[1], "w_k": source.shape[1], "w_v": source.shape[1], "w_o": projections.w_v.shape[-1]}
    for name, rows in given.items():
        matrix: Tensor = getattr(projections, name)
        if matrix.ndim != 2 or matrix.shape[0] != rows:
            raise InputError(f"{name} needs {rows} rows, [{rows}, …], not {list(matrix.shape)}", (name,))
    if projections.w_q.shape[1] != projections.w_k.shape[1]:
        raise InputError(
            f"w_q and w_k need as many columns, not {projections.w_q.shape[1]} and {projections.w_k.shape[1]}", ("w_k",)
        )
    for name in ("w_q", "w_v"):
        columns = getattr(projections, name).shape[1]
        if num_heads < 1 or columns % num_heads:
            raise InputError(f"num_heads divides the columns of {name}, {columns}; {num_heads} does not", ("num_heads",))

"""Attention on tensors of the caller's own, checked at the door."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kqv.attention.biases import Tabulated
from kqv.attention.dense import dense
from kqv.attention.masks import MaskLike, as_mask
from kqv.attention.result import AttentionResult
from kqv.attention.variants import Variant
from kqv.errors import InputError


def attend(
    q: Float[Tensor, "..."],
    k: Float[Tensor, "..."],
    v: Float[Tensor, "..."],
    *,
    mask: MaskLike = "none",
    bias: Float[Tensor, "..."] | None = None,
    scale: float | None = None,
    attention: Variant | None = None,
    weights: bool = True,
) -> AttentionResult:
    """Scaled dot-product attention with every step kept: scores, scaled scores, weights, output.

    `attention` is another than the formula's: a `Longformer`, `Linformer` or `Performer`, with the weights that it amounts to, and
    its scaled scores where it has such; without `weights` neither is made, and memory stays linear in the number of tokens.

    q, k and v are [n, d] for one head, [H, n, d] for several, or [B, H, n, d]; where they have no batch dimension, the result has
    none. `mask` is "none", "causal", booleans [n, m] (or with heads before them; true = visible) or a `Mask`. `bias` is added to
    the scaled scores, and broadcasts. Raises `InputError` for shapes that don't fit, a query that sees no key, and numbers that
    aren't finite.

    >>> attend(torch.zeros(2, 1), torch.zeros(2, 1), torch.tensor([[1.0], [3.0]]), mask="causal").output.tolist()
    [[[1.0], [2.0]]]
    """
    check_shapes(q, k, v)
    for name, tensor in (("q", q), ("k", k), ("v", v), ("bias", bias)):
        if tensor is not None and not tensor.isfinite().all():
            raise InputError(f"{name} holds NaN or an infinity", (name,))
    q4, k4, v4 = (tensor[(None,) * (4 - tensor.ndim)] for tensor in (q, k, v))
    shape = (*q4.shape[:3], k4.shape[2])
    if isinstance(mask, Tensor):
        check_broadcast(mask, shape, "mask")
    if bias is not None:
        check_broadcast(bias, shape, "bias")
    table = None if bias is None else Tabulated(bias[(None,) * (4 - bias.ndim)])
    if attention is None:
        result = dense(q4, k4, v4, mask=as_mask(mask), bias=table, scale=scale)
    else:
        result = attention(q4, k4, v4, mask=as_mask(mask), bias=table, scale=scale, weights=weights)
    check_result(result)
    return result if q.ndim == 4 else result.entry(0)


def check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise `InputError` where q, k and v don't belong together."""
    shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in (("q", q), ("k", k), ("v", v)))
    if not 2 <= q.ndim <= 4 or not q.ndim == k.ndim == v.ndim:
        raise InputError(f"q, k and v are all [n, d], all [heads, n, d] or all [batch, heads, n, d], not {shapes}", ("q",))
    if 0 in (*q.shape, *k.shape, *v.shape):
        raise InputError(f"q, k and v need at least one number in every dimension, not {shapes}", ("q",))
    if q.shape[-1] != k.shape[-1]:
        raise InputError(f"q and k need the same width, not {shapes}", ("k",))
    if k.shape[:-1] != v.shape[:-1]:
        raise InputError(f"k and v need the same heads and length, not {shapes}", ("v",))
    if (q.ndim > 2 and q.shape[-3] % k.shape[-3]) or q.shape[:-3] != k.shape[:-3]:
        raise InputError(f"the heads of k and v divide those of q, in the same batch, not {shapes}", ("k",))


def check_broadcast(tensor: Tensor, shape: tuple[int, ...], name: str) -> None:
    """Raise `InputError` where a mask or bias doesn't fit [batch, heads, queries, keys]."""
    pairs = zip(tensor.shape[::-1], shape[::-1], strict=False)
    if not 2 <= tensor.ndim <= 4 or tensor.shape[-2:] != shape[-2:] or any(size not in (1, whole) for size, whole in pairs):
        raise InputError(
            f"{name} is [queries, keys] = {list(shape[-2:])}, or with heads before them, not {list(tensor.shape)}", (name,)
        )


def check_result(result: AttentionResult) -> None:
    """Raise `InputError` for a query that sees nothing, and for scores that left the range of floating point."""
    if (blind := find_blind(result)).any():
        raise InputError(
            f"mask hides every key from query {int(blind.nonzero()[0, -1])}; let each query see at least one", ("mask",)
        )
    steps = [step for step in (result.scores, result.logsumexp, result.output) if step is not None]
    if not all(step.isfinite().all() for step in steps):
        raise InputError(f"the scores overflow {str(result.output.dtype).removeprefix('torch.')}; scale q and k down", ("q",))


def find_blind(result: AttentionResult) -> Bool[Tensor, "..."]:
    """Which queries see no key: by the mask where it was kept, else by their sums; Linformer's see all."""
    if result.visible is not None:
        return ~result.visible.any(-1)
    return torch.zeros(1, dtype=torch.bool) if result.logsumexp is None else result.logsumexp.isneginf()

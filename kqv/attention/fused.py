"""The same output by torch's fused kernel, which never shows its weights: the fastest path where nobody asked to look."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kqv.attention.biases import Bias, added
from kqv.attention.masks import Causal, Everything, Mask, visible
from kqv.attention.result import AttentionResult


def fused(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S E"],
    *,
    mask: Mask = Everything(),
    bias: Bias | None = None,
    scale: float | None = None,
) -> AttentionResult:
    """What `dense` returns, the output alone."""
    square_causal = isinstance(mask, Causal) and q.shape[2] == k.shape[2] and bias is None
    output = scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=None if square_causal else _additive(mask, bias, q, k),
        is_causal=square_causal,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return AttentionResult(output=output)


def _additive(mask: Mask, bias: Bias | None, q: Tensor, k: Tensor) -> Tensor | None:
    """Mask and bias as the one tensor that torch takes: booleans, or a sum with −inf where masked; None for neither."""
    shape = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    table = None if bias is None else added(bias, shape, q.device).to(q.dtype)
    if isinstance(mask, Everything):
        return table
    seen = visible(mask, shape, q.device)
    return seen if table is None else torch.where(seen, table, -math.inf)

"""Scaled dot-product attention, step by step: the reference for every other form (Vaswani et al., 2017, equation 1)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from kqv.attention.biases import Bias, added
from kqv.attention.masks import Everything, Mask, visible
from kqv.attention.result import AttentionResult


def dense(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S E"],
    *,
    mask: Mask = Everything(),
    bias: Bias | None = None,
    scale: float | None = None,
) -> AttentionResult:
    """softmax(Q Kᵀ · scale + bias) · V with every intermediate kept.

    Half precision is computed in float32. With fewer key/value heads than query heads (G divides H), each serves H/G
    neighbouring query heads (Ainslie et al., 2023). `scale` is 1/√D unless given. A query that sees no key gets weights
    and output of zero and a log-sum-exp of −inf.

    With q = 0 every visible key weighs the same: two tokens under a causal mask give weights [[1, 0], [½, ½]].
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    q, k, v = (tensor.to(dtype) for tensor in (q, repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1])))
    scores = q @ k.transpose(-2, -1)
    scaled_scores = scores * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    shape = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    if bias is not None:
        scaled_scores = scaled_scores + added(bias, shape, q.device)
    seen = visible(mask, shape, q.device)
    scaled_scores = scaled_scores.masked_fill(~seen, -math.inf)
    # softmax of nothing is 0/0; such a row is defined to be zero.
    weights = torch.softmax(scaled_scores, dim=-1).masked_fill(~seen.any(dim=-1, keepdim=True), 0.0)
    return AttentionResult(
        output=weights @ v,
        logsumexp=torch.logsumexp(scaled_scores, dim=-1),
        scores=scores,
        scaled_scores=scaled_scores,
        weights=weights,
        visible=seen,
    )


def repeat_heads(x: Float[Tensor, "B G S D"], num_heads: int) -> Float[Tensor, "B H S D"]:
    """Each key or value head, once for each of the query heads that share it."""
    return x if x.shape[1] == num_heads else x.repeat_interleave(num_heads // x.shape[1], dim=1)

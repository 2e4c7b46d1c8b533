"""Attention without the T×S map: a block of queries sees a block of keys at a time, and only statistics stay.

What `dense` says in full, in memory that grows with T and S alone, by plain torch operations on any device. A C form of it for the
CPU is in `kqv.native`.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from kqv.attention.biases import Bias
from kqv.attention.dense import repeat_heads
from kqv.attention.masks import Everything, Mask, along_axes
from kqv.attention.relations import Tokens
from kqv.attention.statistics import Quantities, Statistics, gather

QUERIES, KEYS = 128, 512
"""Of a block. A head's block of scores is a quarter of a megabyte, which stays in the cache."""


class Streamed(NamedTuple):
    """The output, and what is known of each query."""

    output: Float[Tensor, "B H T E"]
    quantities: Quantities


def streaming(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S E"],
    *,
    tokens: Tokens,
    mask: Mask = Everything(),
    bias: Bias | None = None,
    scale: float | None = None,
    top_k: int = 8,
    queries: int = QUERIES,
    keys: int = KEYS,
) -> Streamed:
    """softmax(Q Kᵀ · scale + bias) · V and its statistics, the arguments being those of `dense`.

    `tokens` is what the relations are told from, the same in every batch entry; `top_k` is how many weights `top_k_mass` sums;
    `queries` and `keys` are the size of a block.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    q, k, v = (tensor.to(dtype) for tensor in (q, repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1])))
    q = q * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    batch, head, query, key = (torch.arange(size, device=q.device) for size in (*q.shape[:3], k.shape[2]))
    parts = []
    for rows in query.split(queries):
        gathered: Statistics | None = None
        for columns in key.split(keys):
            grid = along_axes(batch, head, rows, columns)
            seen = mask(*grid).expand(-1, -1, len(rows), len(columns))
            scores = q[:, :, rows] @ k[:, :, columns].mT
            if bias is not None:
                scores = scores + bias(*grid)
            scores = scores.masked_fill(~seen, -math.inf)
            block = gather(scores, seen, v[:, :, columns], tokens.functionals(rows[:, None], columns), top_k)
            gathered = block if gathered is None else gathered.merge(block, top_k)
        assert gathered is not None
        parts.append(Streamed(gathered.output(), gathered.quantities()))
    outputs, planes = zip(*parts, strict=True)
    return Streamed(torch.cat(outputs, dim=2), torch.cat(planes, dim=-1))

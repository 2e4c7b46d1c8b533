"""What a part that isn't torch needs of a packed call: strides, and biases by distance; and what it leaves to be done after it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from kqv.attention.call import AttentionCall
from kqv.attention.maps import RemadeMaps
from kqv.attention.statistics import QUANTITIES

TOP = 8
"""The most weights whose sum is kept."""
MARGIN = 16
"""Numbers that may be read past the end of a table, and don't matter."""


class Attended(NamedTuple):
    """The heads' outputs, and where asked for what is known of each query: a plane for each of `QUANTITIES`."""

    output: Float[Tensor, "N H D"]
    quantities: Float[Tensor, "P H N"] | None


def side_by_side(tensors: Sequence[Float[Tensor, "_ G D"]]) -> tuple[Sequence[Float[Tensor, "_ G D"]], int]:
    """The tensors with each token's heads in one piece, and how far it is from one token to the next, the same in all."""
    strides = {tensor.stride(0) for tensor in tensors if len(tensor) > 1} or {tensors[0].stride(0)}
    if len(strides) == 1 and all(tensor.stride()[1:] == (tensor.shape[2], 1) for tensor in tensors):
        return tensors, strides.pop()
    return [tensor.contiguous() for tensor in tensors], tensors[0].shape[1] * tensors[0].shape[2]


class Offsets(NamedTuple):
    """A bias that is told from how far a key is from the query."""

    numbers: Float[Tensor, "H length"] | None
    length: int = 0
    zero: int = 0
    """Where the query itself stands; a key before it stands after."""


def biased(call: AttentionCall) -> Offsets:
    """The bias of every head at every distance there is."""
    if call.bias is None or not call.bias.relative:
        return Offsets(None)
    zero, device = max(map(len, call.keys)) - 1, call.q.device
    head, batch = torch.arange(call.q.shape[1], device=device)[:, None], torch.zeros(1, dtype=torch.long, device=device)
    behind = torch.arange(-zero, zero + 1 + MARGIN, device=device)
    table = call.bias(batch, head, behind, torch.zeros_like(behind)).float().contiguous()
    return Offsets(table, len(behind), zero)


def sum_more(call: AttentionCall, quantities: Float[Tensor, "P H N"], top_k: Sequence[int]) -> None:
    """Sum more of the largest weights than `TOP`, from the map, a block of queries at a time."""
    totals = call.queries.split(quantities[QUANTITIES.index("logsumexp")].mT)
    sums = call.queries.split(quantities[QUANTITIES.index("top_k_mass")].mT)
    for sequence, logsumexp, mass, k in zip(call.sequences(), totals, sums, top_k, strict=True):
        if k > TOP:
            heads, queries, keys = range(sequence.q.shape[1]), slice(0, len(mass)), slice(0, sequence.k.shape[2])
            for rows, weights in RemadeMaps(sequence, logsumexp.mT).blocks(heads, queries, keys):
                mass[rows] = weights.topk(min(k, weights.shape[-1]), dim=-1).values.sum(-1).mT

"""Attention of a packed batch in one call of the C part: float32 on the CPU, every mask and bias, the whole of the statistics."""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from kqv.attention.biases import Bias, added
from kqv.attention.call import AttentionCall, Limits, SequenceAttention, stretches
from kqv.attention.maps import RemadeMaps
from kqv.attention.masks import Everything, visible
from kqv.attention.relations import Tokens
from kqv.attention.statistics import QUANTITIES
from kqv.native.library import library
from kqv.native.structures import WIDEST, address, fields

TOP = 8
"""The most weights whose sum is kept."""
MARGIN = 16
"""Numbers that may be read past the end of a table, and don't matter."""


class CSequence(ctypes.Structure):
    """`Sequence` in call.h."""

    _fields_ = fields(pointer="keys values table ids special", long="start num_queries num_keys table_stride", int="top_k same")


class CCall(ctypes.Structure):
    """`Call` in call.h."""

    _fields_ = fields(
        pointer="queries output quantities low high bias sequences",
        long="num_sequences tokens heads key_heads width query_stride key_stride value_stride bias_length bias_zero",
        float="scale",
    )


def serves(call: AttentionCall) -> bool:
    """Whether the C part can do this call, and is there."""
    return call.q.device.type == "cpu" and call.q.dtype == torch.float32 and call.q.shape[-1] <= WIDEST and library() is not None


class Attended(NamedTuple):
    """The heads' outputs, and where asked for what is known of each query."""

    output: Float[Tensor, "N H D"]
    quantities: Float[Tensor, "P H N"] | None


def attend(call: AttentionCall, tokens: Sequence[Tokens] = (), top_k: Sequence[int] = ()) -> Attended:
    """Attend; with what is known of each sequence's tokens, and how many weights `top_k_mass` sums there, look as well."""
    native = library()
    assert native is not None
    keys, key_stride = side_by_side(call.keys)
    values, value_stride = side_by_side(call.values)
    [q], query_stride = side_by_side([call.q])
    output = q.new_empty(q.shape)  # as wide as what C writes, whatever torch's default is
    quantities = q.new_empty(len(QUANTITIES), q.shape[1], q.shape[0]) if tokens else None
    limits, tables = masked(call)
    offsets = biased(call)
    sequences = (CSequence * len(keys))()
    for place, sequence in enumerate(sequences):
        sequence.keys, sequence.values, sequence.num_keys = keys[place].data_ptr(), values[place].data_ptr(), len(keys[place])
        sequence.start, sequence.num_queries, sequence.same = call.queries.offsets[place], call.queries.lengths[place], call.same
        if tables:
            sequence.table, sequence.table_stride = tables[place].numbers.data_ptr(), tables[place].stride
        if tokens:
            sequence.ids, sequence.special = address(tokens[place].ids32), address(tokens[place].special)
            sequence.top_k = min(top_k[place], TOP)
    asked = CCall(
        queries=q.data_ptr(),
        output=output.data_ptr(),
        quantities=address(quantities),
        low=limits.low.data_ptr(),
        high=limits.high.data_ptr(),
        bias=address(offsets.numbers),
        sequences=ctypes.addressof(sequences),
        num_sequences=len(keys),
        tokens=q.shape[0],
        heads=q.shape[1],
        key_heads=keys[0].shape[1],
        width=q.shape[2],
        query_stride=query_stride,
        key_stride=key_stride,
        value_stride=value_stride,
        bias_length=offsets.length,
        bias_zero=offsets.zero,
        scale=call.scale,
    )
    native.kqv_attend(ctypes.byref(asked))
    if quantities is not None and max(top_k) > TOP:
        sum_more(call, quantities, top_k)
    return Attended(output, quantities)


def side_by_side(tensors: Sequence[Float[Tensor, "_ G D"]]) -> tuple[Sequence[Float[Tensor, "_ G D"]], int]:
    """The tensors with each token's heads in one piece, and how far it is from one token to the next, the same in all."""
    strides = {tensor.stride(0) for tensor in tensors if len(tensor) > 1} or {tensors[0].stride(0)}
    if len(strides) == 1 and all(tensor.stride()[1:] == (tensor.shape[2], 1) for tensor in tensors):
        return tensors, strides.pop()
    return [tensor.contiguous() for tensor in tensors], tensors[0].shape[1] * tensors[0].shape[2]


class Added(NamedTuple):
    """One sequence's biases, −inf where masked, keys before queries."""

    numbers: Float[Tensor, " all"]
    stride: int
    """From one head to the next; 0 where all share it."""


def masked(call: AttentionCall) -> tuple[Limits, list[Added]]:
    """The mask as limits where it lets each query see one stretch of keys, else as tables, which hold most biases too."""
    limits = call.limits()
    if limits is not None and not call.bias_of_pairs:
        return limits, []
    tables = [tabulated(sequence, sequence.bias if call.bias_of_pairs else None) for sequence in call.sequences()]
    return limits or stretches(Everything(), call.queries, call.key_lengths, call.same), tables


def tabulated(sequence: SequenceAttention, bias: Bias | None) -> Added:
    """What is added to each score of a sequence: −inf by its mask, and a bias that is not added otherwise."""
    shape = (1, sequence.q.shape[1], sequence.q.shape[2], sequence.k.shape[2])
    seen = visible(sequence.mask, shape, sequence.q.device)
    table = torch.zeros(()) if bias is None else added(bias, shape, sequence.q.device)
    table = torch.where(seen, table, -torch.inf)[0].mT
    return Added(pad(table.flatten().float(), (0, MARGIN)), table[0].numel() if len(table) > 1 else 0)


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
    zero = max(map(len, call.keys)) - 1
    head, batch = torch.arange(call.q.shape[1])[:, None], torch.zeros(1, dtype=torch.long)
    behind = torch.arange(-zero, zero + 1 + MARGIN)
    table = call.bias(batch, head, behind, torch.zeros_like(behind)).float().contiguous()
    return Offsets(table, len(behind), zero)


def sum_more(call: AttentionCall, quantities: Float[Tensor, "P H N"], top_k: Sequence[int]) -> None:
    """Sum more of the largest weights than the C part keeps, from the map, a block of queries at a time."""
    totals = call.queries.split(quantities[QUANTITIES.index("logsumexp")].mT)
    sums = call.queries.split(quantities[QUANTITIES.index("top_k_mass")].mT)
    for sequence, logsumexp, mass, k in zip(call.sequences(), totals, sums, top_k, strict=True):
        if k > TOP:
            heads, queries, keys = range(sequence.q.shape[1]), slice(0, len(mass)), slice(0, sequence.k.shape[2])
            for rows, weights in RemadeMaps(sequence, logsumexp.mT).blocks(heads, queries, keys):
                mass[rows] = weights.topk(min(k, weights.shape[-1]), dim=-1).values.sum(-1).mT

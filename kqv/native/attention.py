"""Attention of a packed batch in one call of the C part, on the CPU: every mask and bias, the whole of the statistics."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from kqv.attention.biases import Bias, added
from kqv.attention.call import AttentionCall, Limits, SequenceAttention, stretches
from kqv.attention.foresight import Shown
from kqv.attention.lowering import MARGIN, TOP, Attended, biased, side_by_side, sum_more
from kqv.attention.maps import FromHeads
from kqv.attention.masks import Everything, visible
from kqv.attention.relations import Tokens
from kqv.attention.statistics import QUANTITIES
from kqv.native.library import built, library
from kqv.native.structures import WIDEST, address, fields


class CSequence(ctypes.Structure):
    """`Sequence` in call.h."""

    _fields_ = fields(pointer="keys values table ids special", long="start num_queries num_keys table_stride", int="top_k same")


class CMap(ctypes.Structure):
    """`Map` in call.h."""

    _fields_ = fields(pointer="weights shown", long="first_query num_queries first_key num_keys")


class CCall(ctypes.Structure):
    """`Call` in call.h."""

    _fields_ = fields(
        pointer="queries output quantities low high bias sequences maps",
        long="num_sequences tokens heads key_heads width query_stride key_stride value_stride bias_length bias_zero",
        float="scale",
    )


def serves(call: AttentionCall, looks: bool) -> bool:
    """Whether the C part is there, can do this call, and is the best for it; `looks` where statistics are wanted.

    What is of 16 bits is widened for it: that pays for statistics, but for the output alone torch has a faster kernel.
    """
    served = (torch.float32, torch.bfloat16, torch.float16) if looks else (torch.float32,)
    return call.q.device.type == "cpu" and call.q.dtype in served and call.q.shape[-1] <= WIDEST and library() is not None


class Asked(NamedTuple):
    """A call as C reads it, and what it fills."""

    structure: CCall
    output: Float[Tensor, "N H D"]
    quantities: Float[Tensor, "P H N"] | None
    kept: tuple[object, ...]
    """What the structure has addresses of."""


def ask(call: AttentionCall, tokens: Sequence[Tokens] = (), top_k: Sequence[int] = (), planes: int = len(QUANTITIES)) -> Asked:
    """The call for C; with what is known of each sequence's tokens, and how many weights `top_k_mass` sums there, it looks as well.

    There is room for so many planes of quantities, of which attention fills the first.
    """
    keys, key_stride = side_by_side([k.float() for k in call.keys])
    values, value_stride = side_by_side([v.float() for v in call.values])
    [q], query_stride = side_by_side([call.q.float()])
    output = call.scratch.empty("heads", q, *q.shape)  # as wide as what C writes, whatever torch's default is
    quantities = call.scratch.empty("quantities", q, planes, q.shape[1], q.shape[0]) if tokens else None
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
    structure = CCall(
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
    return Asked(structure, output, quantities, (q, keys, values, limits, tables, offsets, sequences, tokens))


def attend(call: AttentionCall, tokens: Sequence[Tokens] = (), top_k: Sequence[int] = ()) -> Attended:
    """Attend, and where `tokens` are given look as well: see `ask`."""
    asked = ask(call, tokens, top_k)
    built().kqv_attend(ctypes.byref(asked.structure))
    if asked.quantities is not None and max(top_k) > TOP:
        sum_more(call, asked.quantities, top_k)
    return Attended(asked.output.to(call.q.dtype), asked.quantities)


def keep_maps(maps: Sequence[Shown | None], layers: int) -> list["ctypes.Array[CMap]"]:
    """What is kept of each layer's weights, a map a sequence."""
    kept = [(CMap * len(maps))() for _ in range(layers)]
    for index, shown in enumerate(maps):
        if shown is not None:
            queries, keys = shown.queries, shown.keys
            crop = (queries.start, queries.stop - queries.start, keys.start, keys.stop - keys.start)
            for layer, weights in zip(shown.layers, shown.weights, strict=True):
                kept[layer][index] = CMap(weights.data_ptr(), shown.places.data_ptr(), *crop)
    return kept


@dataclass(frozen=True, eq=False)
class NativeMaps(FromHeads):
    """By the part that attends, without the outputs: rows sum to 1 as they did when they were used."""

    call: AttentionCall
    index: int
    """Of the sequence in the call."""

    def weights(self, heads: Sequence[int], queries: slice, keys: slice) -> Float[Tensor, "h q k"]:
        call = self.call.part(self.index, queries)
        shown = Shown.room([0], heads, call.q.shape[1], slice(0, queries.stop - queries.start), keys)
        [maps], asked = keep_maps([shown], 1), ask(call)
        asked.structure.output, asked.structure.maps = None, ctypes.addressof(maps)
        built().kqv_attend(ctypes.byref(asked.structure))
        return shown.named([0], heads)[0]


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

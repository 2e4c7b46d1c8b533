"""Attention of a packed batch in one launch of the kernel: on a GPU, masks that let each query see one stretch of keys."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from kqv.attention.call import AttentionCall, Limits, stretches
from kqv.attention.lowering import TOP, Attended, biased, side_by_side, sum_more
from kqv.attention.masks import Mask
from kqv.attention.relations import Tokens
from kqv.attention.statistics import QUANTITIES
from kqv.packing import Packing

WIDEST = 256
"""The widest head of the kernel."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OLDEST = (8, 0)
"""The compute capability from which on there is bfloat16, and copying while computing."""


class Blocks(NamedTuple):
    """How the work is cut: rows of a program, keys of a tile, and what runs and reads them."""

    rows: int
    keys: int
    warps: int
    stages: int
    """Tiles of keys that are on their way at once."""


def serves(call: AttentionCall) -> bool:
    """Whether the kernel can do this call, and is there."""
    q = call.q
    can = q.dtype in DTYPES and q.shape[-1] <= WIDEST and call.scale > 0 and not call.bias_of_pairs
    return can and runs_on(q.device) and call.limits() is not None


@cache
def runs_on(device: torch.device) -> bool:
    """Whether it is a GPU that Triton compiles for, and Triton is installed."""
    return device.type == "cuda" and find_spec("triton") is not None and torch.cuda.get_device_capability(device) >= OLDEST


def attend(call: AttentionCall, tokens: Sequence[Tokens] = (), top_k: Sequence[int] = (), blocks: Blocks | None = None) -> Attended:
    """Attend; with what is known of each sequence's tokens, and how many weights `top_k_mass` sums there, look as well."""
    from kqv.gpu import kernel  # Triton is optional, and comes with torch's builds for GPUs

    keys, key_stride = side_by_side(call.keys)
    values, value_stride = side_by_side(call.values)
    [q], query_stride = side_by_side([call.q])
    num_tokens, heads, width = q.shape
    shared = heads // keys[0].shape[1]
    blocks = blocks or fit(call, looks=bool(tokens))
    depth = deep(width)
    output = torch.empty_like(q, memory_format=torch.contiguous_format)
    planes = (len(QUANTITIES), heads, num_tokens) if tokens else (1,)
    quantities = torch.empty(planes, dtype=torch.float32, device=q.device)
    limits = limits_on(call.mask, call.queries, call.key_lengths, call.same, q.device)
    offsets = biased(call)
    sequences = addresses(call, keys, values, tokens, top_k)
    tiles = cut(tuple(shared * length for length in call.queries.lengths), blocks.rows, q.device)
    with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
        kernel.attend[len(tiles), keys[0].shape[1]](
            q,
            output,
            quantities,
            *limits,
            quantities if offsets.numbers is None else offsets.numbers,
            sequences,
            tiles,
            num_tokens,
            heads,
            shared,
            query_stride,
            key_stride,
            value_stride,
            offsets.length,
            offsets.zero,
            call.scale,
            SAME=call.same,
            WIDTH=width,
            DEPTH=depth,
            ROWS=blocks.rows,
            KEYS=blocks.keys,
            ALIGNED=aligned([q, *keys, *values], (query_stride, key_stride, value_stride, width)),
            HAS_BIAS=offsets.numbers is not None,
            LOOK=bool(tokens),
            WIDEN=q.dtype == torch.bfloat16 and not q.is_cuda,
            num_warps=blocks.warps,
            num_stages=blocks.stages,
            enable_fp_fusion=True,  # the default of Triton's to come is slower
        )
    if not tokens:
        return Attended(output, None)
    if max(top_k) > TOP:
        sum_more(call, quantities, top_k)
    return Attended(output, quantities)


def deep(width: int) -> int:
    """A head's width in the kernel, where each is a power of two."""
    return max(16, 1 << (width - 1).bit_length())


def fit(call: AttentionCall, *, looks: bool) -> Blocks:
    """Blocks for this call's numbers and this GPU's shared memory, where a program's queries and its tiles of keys lie.

    Tiles of at most 64 keys where the largest weights are kept, whose last 6 binary digits give way to their columns.
    """
    shared = call.q.shape[1] // call.keys[0].shape[1]
    depth, size = deep(call.q.shape[2]), call.q.element_size()
    rows = min(128 if size == 2 and depth <= 128 else 64, max(16, 1 << (shared * max(call.queries.lengths) - 1).bit_length()))
    if looks:
        keys = 64 if depth * size <= 128 and size == 2 else 32
    else:
        keys = 128 if depth * size <= 128 and size == 2 else 64 if depth * size <= 256 else 32
    room = shared_memory(call.q.device) - depth * size * rows
    return Blocks(rows, keys, 8 if rows == 128 or size == 4 else 4, max(1, min(3, room // (2 * depth * size * keys))))


@cache
def shared_memory(device: torch.device) -> int:
    """Bytes that a program may have there; in Triton's interpreter as many as on an H100."""
    if device.type != "cuda":
        return 232448
    from triton.runtime import driver

    return driver.active.utils.get_device_properties(device.index)["max_shared_mem"]


@lru_cache(maxsize=64)  # the layers of a model ask the same
def limits_on(mask: Mask, queries: Packing, keys: tuple[int, ...], same: bool, device: torch.device) -> Limits:
    """What the queries see, where the kernel reads it."""
    return Limits(*(tensor.to(device) for tensor in stretches(mask, queries, keys, same)))


@lru_cache(maxsize=64)
def cut(lengths: tuple[int, ...], rows: int, device: torch.device) -> Int[Tensor, "tiles 2"]:
    """Each program's sequence, and the first of its rows: the last come first, since under a causal mask they have most to do."""
    places = [(sequence, first) for sequence, length in enumerate(lengths) for first in range(0, length, rows)]
    return torch.tensor(sorted(places, key=lambda place: -place[1]), dtype=torch.int32).to(device)


def addresses(
    call: AttentionCall, keys: Sequence[Tensor], values: Sequence[Tensor], tokens: Sequence[Tokens], top_k: Sequence[int]
) -> Int[Tensor, "S 8"]:
    """What the kernel reads of each sequence: where its tensors lie, or 0; its lengths; how many to sum."""
    table = []
    for place, (k, v) in enumerate(zip(keys, values, strict=True)):
        ids = tokens[place].ids32 if tokens and call.same else None  # tokens of two sequences can't be compared
        special = tokens[place].special if tokens else None
        facts = [0 if tensor is None else tensor.data_ptr() for tensor in (k, v, ids, special)]
        sums = min(top_k[place], TOP) if tokens else 0
        table.append([*facts, call.queries.offsets[place], call.queries.lengths[place], len(k), sums])
    return torch.tensor(table, dtype=torch.int64).to(call.q.device)


def aligned(tensors: Sequence[Tensor], strides: Sequence[int]) -> bool:
    """Whether every token's head begins where 16 bytes can be read at once."""
    size = tensors[0].element_size()
    return all(tensor.data_ptr() % 16 == 0 for tensor in tensors) and all(stride * size % 16 == 0 for stride in strides)

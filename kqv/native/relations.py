"""Whether each query may see a key that is in a relation to it, by the C part: on the CPU."""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from kqv.native.library import library
from kqv.native.structures import address, fields

NUM_RELATIONS = 8
"""Those of relations.c."""


class CKnown(ctypes.Structure):
    """`Known` in relations.c."""

    _fields_ = fields(pointer="ids", long="queries keys", int="same has_special")


class CRelations(ctypes.Structure):
    """`Relations` in relations.c."""

    _fields_ = fields(pointer="low high sequences related", long="num_sequences tokens")


class Known(NamedTuple):
    """What is known of one sequence."""

    ids: Int[Tensor, " S"] | None
    """int32; None where tokens can't be compared."""
    queries: int
    keys: int
    same: bool
    """Whether queries and keys are the same tokens, the queries being the last of them."""
    has_special: bool


def relate(low: Int[Tensor, " N"], high: Int[Tensor, " N"], sequences: Sequence[Known]) -> Bool[Tensor, " R 1 N"] | None:
    """As `look_along` has it, for queries that see the keys low … high − 1; None where the C part can't tell.

    Raises `MemoryError`.
    """
    native = library()
    tensors = [low, *(each.ids for each in sequences if each.ids is not None)]
    if native is None or any(tensor.device.type != "cpu" for tensor in tensors):
        return None
    low, high = low.int(), high.int()
    related = torch.empty(NUM_RELATIONS, 1, len(low), dtype=torch.bool)
    known = (CKnown * len(sequences))(*(CKnown(address(ids), *rest) for ids, *rest in sequences))
    pointers = (low.data_ptr(), high.data_ptr(), ctypes.addressof(known), related.data_ptr())
    if not native.kqv_relate(ctypes.byref(CRelations(*pointers, len(sequences), len(low)))):
        raise MemoryError("there is no memory to compare tokens")
    return related

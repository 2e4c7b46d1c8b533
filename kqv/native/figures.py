"""What is told of heads and sequences once attention is done, by the C part: float32 on the CPU."""

import ctypes
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from kqv.native.library import library
from kqv.native.structures import WIDEST, fields


class CLengths(ctypes.Structure):
    """`Lengths` in figures.c."""

    _fields_ = fields(pointer="outputs factors lengths", long="tokens heads rows width")


class CSums(ctypes.Structure):
    """`Sums` in figures.c."""

    _fields_ = fields(pointer="planes counted ends sums", long="num_planes heads tokens num_sequences counted_stride")


def serves(tensor: Tensor) -> bool:
    """Whether the C part can work on such numbers, and is there."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and library() is not None


def lengths(outputs: Float[Tensor, "N H D"], factors: Float[Tensor, "H R D"]) -> Float[Tensor, "H N"] | None:
    """‖R z‖ of each head's output; None where the C part can't tell."""
    tokens, heads, width = outputs.shape
    native = library()
    if native is None or not serves(outputs) or not serves(factors) or width > WIDEST:
        return None
    outputs, factors = outputs.contiguous(), factors.contiguous()
    found = outputs.new_empty(heads, tokens)
    pointers = (outputs.data_ptr(), factors.data_ptr(), found.data_ptr())
    native.kqv_lengths(ctypes.byref(CLengths(*pointers, tokens, heads, factors.shape[1], width)))
    return found


def sums(
    planes: Sequence[Float[Tensor, "H N"]], counted: Float[Tensor, " M #H N"], parts: Sequence[int]
) -> Float[Tensor, "M H S"] | None:
    """Sums over those queries of each sequence, of so many tokens, that count; None where the C part can't tell."""
    native = library()
    if native is None or not all(map(serves, planes)) or not serves(counted):
        return None
    planes, (heads, tokens) = [plane.contiguous() for plane in planes], planes[0].shape
    found = planes[0].new_empty(len(planes), heads, len(parts))
    ends = torch.tensor(parts).cumsum(0)
    pointers = (ctypes.c_void_p * len(planes))(*(plane.data_ptr() for plane in planes))
    stride = tokens if counted.shape[1] > 1 else 0
    places = (ctypes.addressof(pointers), counted.data_ptr(), ends.data_ptr(), found.data_ptr())
    native.kqv_sums(ctypes.byref(CSums(*places, len(planes), heads, tokens, len(parts), stride)))
    return found

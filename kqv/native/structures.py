"""C's structures, as Python fills them."""

import ctypes

import torch
from torch import Tensor

WIDEST = 256
"""The widest head of the C part."""
KINDS: dict[str, type] = {"pointer": ctypes.c_void_p, "long": ctypes.c_int64, "int": ctypes.c_int32, "float": ctypes.c_float}


def fields(**names: str) -> list[tuple[str, type]]:
    """The fields of a C structure, by kind, in order."""
    return [(name, KINDS[kind]) for kind, several in names.items() for name in several.split()]


def address(tensor: Tensor | None) -> int | None:
    """Where the numbers lie; None is C's NULL."""
    return None if tensor is None else tensor.data_ptr()


def full(*shape: int) -> Tensor:
    """Numbers for C to write."""
    return torch.empty(shape, dtype=torch.float32)

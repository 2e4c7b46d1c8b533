"""Matrices in the smallest form that keeps each of their numbers: a product with a few vectors takes as long as reading them."""

import ctypes
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from jaxtyping import Float
from torch import Tensor

from kqv.native.arena import Arena
from kqv.native.library import built
from kqv.native.structures import address, fields

BLOCK = 32
"""Neighbours in a row that share a scale."""
MARGIN = 16
"""Numbers that may be read past the last offset, and are zeros."""


class Form(IntEnum):
    """As in matrix.h."""

    FLOAT32, BFLOAT16, EIGHT_BITS, FOUR_BITS = range(4)


class CMatrix(ctypes.Structure):
    """`Matrix` in matrix.h."""

    _fields_ = fields(pointer="numbers scales offsets bias", long="rows columns form")


@dataclass(frozen=True, eq=False)
class Matrix:
    """A linear layer's weight in one of the forms, and its bias."""

    form: Form
    rows: int
    columns: int
    numbers: Tensor
    scales: Float[Tensor, " blocks"] | None = None
    offsets: Float[Tensor, " blocks"] | None = None
    bias: Float[Tensor, " rows"] | None = None

    @property
    def structure(self) -> CMatrix:
        """What C reads; it holds addresses alone, so that the matrix must outlive it."""
        parts = (self.numbers, self.scales, self.offsets, self.bias)
        return CMatrix(*map(address, parts), self.rows, self.columns, self.form)

    @property
    def num_bytes(self) -> int:
        """What a product reads."""
        parts = (self.numbers, self.scales, self.offsets, self.bias)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)

    def moved(self, arena: Arena) -> "Matrix":
        """The same in an arena, but for the bias."""
        numbers, scales, offsets = (
            None if part is None else arena.hold(part) for part in (self.numbers, self.scales, self.offsets)
        )
        assert numbers is not None
        return replace(self, numbers=numbers, scales=scales, offsets=offsets)

    def times(self, x: Float[Tensor, "n columns"]) -> Float[Tensor, "n rows"]:
        """W x + b of each vector, in float32."""
        x = x.float().contiguous()
        y, sums = x.new_empty(len(x), self.rows), x.new_empty(len(x) * (self.columns // BLOCK + MARGIN))
        built().kqv_multiply(ctypes.byref(self.structure), place(x), ctypes.c_int64(len(x)), place(sums), place(y))
        return y


def place(tensor: Tensor) -> ctypes.c_void_p:
    """Where the numbers lie, as an argument."""
    return ctypes.c_void_p(tensor.data_ptr())


def keep(weight: Float[Tensor, "rows columns"], bias: Float[Tensor, " rows"] | None = None) -> Matrix:
    """A float32 or bfloat16 weight in the smallest form that it can be had back from; where that is its own, it is not copied.

    Zeros come back without their sign.
    """
    weight, bias = weight.detach().contiguous(), None if bias is None else bias.detach().float().contiguous()
    if weight.dtype == torch.bfloat16:
        return Matrix(Form.BFLOAT16, len(weight), weight.shape[1], weight, bias=bias)
    for form in (Form.FOUR_BITS, Form.EIGHT_BITS, Form.BFLOAT16):
        matrix = empty(form, weight, bias)
        if built().kqv_shrink(place(weight), ctypes.byref(matrix.structure)):
            return matrix
    return Matrix(Form.FLOAT32, len(weight), weight.shape[1], weight, bias=bias)


def empty(form: Form, weight: Float[Tensor, "rows columns"], bias: Float[Tensor, " rows"] | None) -> Matrix:
    """A form that is still to be filled; memory that isn't, where it fails at once, costs nothing."""
    rows, columns = weight.shape
    if form == Form.BFLOAT16:
        return Matrix(form, rows, columns, weight.new_empty(rows, columns, dtype=torch.bfloat16), bias=bias)
    blocks = rows * (columns // BLOCK)
    if form == Form.EIGHT_BITS:
        return Matrix(form, rows, columns, weight.new_empty(rows, columns, dtype=torch.int8), weight.new_empty(blocks), bias=bias)
    numbers = weight.new_empty(rows, columns // 2, dtype=torch.uint8)
    return Matrix(form, rows, columns, numbers, weight.new_empty(blocks), weight.new_zeros(blocks + MARGIN), bias)

"""Matrices laid out in panels, once, for products with many vectors."""

import ctypes
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from kqv.native.arena import LINE, Arena
from kqv.native.library import built
from kqv.native.structures import fields


class CPanels(ctypes.Structure):
    """`Panels` in panels.h."""

    _fields_ = fields(pointer="numbers bias", long="rows columns")


@dataclass(frozen=True, eq=False)
class Panels:
    """A matrix's rows, P side by side, and what is added to their products."""

    numbers: Float[Tensor, "panels columns P"]
    bias: Float[Tensor, "panels P"]
    rows: int

    @property
    def structure(self) -> CPanels:
        """What C reads; it holds addresses alone, so that the panels must outlive it."""
        return CPanels(self.numbers.data_ptr(), self.bias.data_ptr(), self.rows, self.numbers.shape[1])

    @property
    def stride(self) -> int:
        """How far apart its products with two vectors lie: whole panels are written."""
        return self.bias.numel()


def lay_out(weight: Float[Tensor, "rows columns"], bias: Float[Tensor, " rows"] | None, arena: Arena) -> Panels:
    """The matrix in panels, in an arena; rows that fill up the last are zeros."""
    width, rows = built().kqv_panel(), len(weight)
    over = -rows % width
    numbers = pad(weight.detach(), (0, 0, 0, over)).unflatten(0, (-1, width)).transpose(1, 2)
    added = torch.zeros(rows) if bias is None else bias.detach()
    return Panels(arena.hold(numbers), pad(added, (0, over)).unflatten(0, (-1, width)), rows)


def room(weight: Float[Tensor, "rows columns"]) -> int:
    """Bytes that the matrix takes in panels, at most, be it in one piece or in two."""
    rows, columns = weight.shape
    return 2 * LINE + (rows + 2 * built().kqv_panel()) * columns * weight.element_size()

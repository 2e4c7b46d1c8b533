"""Many sequences as one row of tokens, so that linear layers do no work on padding."""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Where each sequence lies in the row: sequence i is the `lengths[i]` tokens from `offsets[i]` on.

    Lengths (2, 3) pack as a a b b b: offsets (0, 2), positions 0 1 0 1 2.
    """

    lengths: tuple[int, ...]

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Index of each sequence's first token."""
        return tuple(accumulate(self.lengths, initial=0))[:-1]

    @property
    def tokens(self) -> int:
        """Length of the whole row."""
        return sum(self.lengths)

    def positions(self, device: torch.device, read: tuple[int, ...] = ()) -> Int[Tensor, " N"]:
        """Each token's index in its own sequence, of which `read` tokens came before."""
        first = torch.tensor(read or (0,) * len(self.lengths)) - torch.tensor(self.offsets)
        return (torch.arange(self.tokens) + first.repeat_interleave(torch.tensor(self.lengths))).to(device)

    def split(self, row: Float[Tensor, "N ..."]) -> tuple[Float[Tensor, "n ..."], ...]:
        """The row cut back into sequences, as views."""
        return torch.split(row, list(self.lengths))

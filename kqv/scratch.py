"""Tensors as long as a pass, made once and written anew by every layer.

Where each layer makes its own, the allocator keeps the holes that they leave, which the next ones do not fit: as much memory again
as is needed, and more or less of it by chance.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

ROWS = 1024
"""Tokens that are worked on at once, where each is by itself: enough for matrix products at full speed, and few enough that what
comes between, a feed-forward's inner layer being the widest, stays near the processor and is memory that the allocator keeps."""


class Scratch:
    """The tensors of one pass, by name. While gradients are wanted each is a new one."""

    def __init__(self) -> None:
        self._made: dict[str, Tensor] = {}

    def empty(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """`like.new_empty(shape)`; what was last given under this name and shape is written over."""
        made = self._made.get(name)
        if torch.is_grad_enabled() or made is None or made.shape != shape or made.dtype != like.dtype:
            made = self._made[name] = like.new_empty(shape)
        return made

    def by_rows(self, change: Callable[..., Tensor], x: Float[Tensor, "N W"], *more: Float[Tensor, "N _"]) -> Float[Tensor, "N W"]:
        """`change` of the same tokens of each tensor, `ROWS` at a time, written over what this gave before, be it `x` itself."""
        if len(x) <= ROWS:
            return change(x, *more)
        parts = zip(*(tensor.split(ROWS) for tensor in (x, *more)), strict=True)
        if torch.is_grad_enabled():
            return torch.cat([change(*part) for part in parts])
        result = self.empty("rows", x, *x.shape)
        for part, place in zip(parts, result.split(ROWS), strict=True):
            place.copy_(change(*part))
        return result

    def linear(
        self,
        name: str,
        x: Float[Tensor, "N W"],
        norm: Callable[[Tensor], Tensor],
        weight: Float[Tensor, "P W"],
        bias: Float[Tensor, " P"] | None,
    ) -> Float[Tensor, "N P"]:
        """`norm(x)` through a linear map, likewise, but under a name of its own."""
        if len(x) <= ROWS or torch.is_grad_enabled():
            return linear(norm(x), weight, bias)
        result = self.empty(name, x, len(x), len(weight))
        for part, place in zip(x.split(ROWS), result.split(ROWS), strict=True):
            if bias is None:
                torch.mm(norm(part), weight.mT, out=place)
            else:
                torch.addmm(bias, norm(part), weight.mT, out=place)
        return result

"""How weights start, where the usual noise would learn too slowly: a few minutes are not many."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def resemble(query: Float[Tensor, "A B"], key: Float[Tensor, "A B"]) -> None:
    """Keys start as queries, so that a token first looks at what resembles it: itself, its like, its neighbours.

    So do trained transformers' (Trockman and Kolter, 2023), and an induction head has only its direction left to find.
    """
    key.copy_(query)


@torch.no_grad()
def wave(positions: Float[Tensor, "context width"], amplitude: float) -> None:
    """Learned positions start as sines and cosines, of wavelengths from 4 tokens to twice the context.

    A head that looks one token back then does the same thing everywhere, and learns it from all places at once.
    """
    context, width = positions.shape
    wavelengths = 4 * (context / 2) ** torch.linspace(0, 1, width // 2)
    angles = 2 * math.pi * torch.arange(context)[:, None] / wavelengths
    positions.copy_(amplitude * torch.cat((angles.sin(), angles.cos()), dim=1))

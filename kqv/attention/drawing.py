"""Random matrices by seed: the same on every machine and device, whatever was drawn before."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def generator(seed: int, *place: int) -> torch.Generator:
    """Chance of its own for each place (a layer, a head), that the seed settles."""
    [state] = np.random.SeedSequence((seed, *place)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state >> 1))


def gaussian(shape: tuple[int, ...], chance: torch.Generator) -> Float[Tensor, "..."]:
    """Numbers from N(0, 1)."""
    return torch.randn(shape, generator=chance)


def orthogonal(rows: int, width: int, chance: torch.Generator) -> Float[Tensor, "rows width"]:
    """Rows of which each is like one from N(0, 1), but any `width` in succession are at right angles (Choromanski et al., 2021).

    Directions are uniform: the Q of a QR decomposition whose signs are settled (Mezzadri, 2007). Lengths are Gaussian vectors'.
    """
    squares = []
    for _ in range(-(-rows // width)):
        q, r = torch.linalg.qr(gaussian((width, width), chance))
        squares.append((q * r.diagonal().sign()).T)
    lengths = gaussian((rows, width), chance).norm(dim=-1, keepdim=True)
    return torch.cat(squares)[:rows] * lengths

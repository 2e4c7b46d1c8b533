"""Where a token is: tables that are added to the embeddings."""

import torch
from jaxtyping import Float
from torch import Tensor


def sinusoidal(context: int, d_model: int) -> Float[Tensor, "context d_model"]:
    """sin(p / 10000^(2i/d)) in even columns, cos of the same in odd ones (Vaswani et al., 2017, section 3.5).

    Computed in float64 and rounded once; on the CPU even while a model is laid out on the meta device, since no checkpoint
    holds it. Position 0 is 0, 1, 0, 1, …
    """
    position = torch.arange(context, dtype=torch.float64, device="cpu")[:, None]
    pair = torch.arange(0, d_model, 2, dtype=torch.float64, device="cpu")
    angle = position / 10000 ** (pair / d_model)
    table = torch.empty(context, d_model, dtype=torch.float64, device="cpu")
    table[:, 0::2] = angle.sin()
    table[:, 1::2] = angle.cos()[:, : d_model // 2]
    return table.to(torch.get_default_dtype())

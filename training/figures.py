"""Held-out figures, as lines to read."""

import torch
from jaxtyping import Float
from torch import Tensor

import kqv
from kqv.config import Group


def by_head(title: str, values: Float[Tensor, "L H"]) -> None:
    """Print a figure of every head, a layer a line."""
    print(f"{title}: at most {values.max():.3f}")
    for layer, heads in enumerate(values.tolist()):
        print(f"  layer {layer}: {'  '.join(f'{value:.3f}' for value in heads)}")


def logits(model: kqv.Model, rows: list[list[int]]) -> list[Float[Tensor, "n V"]]:
    """What a model expects at, or after, each token."""
    found = model.analyze(rows, weights="none", diagnostics="none", outputs=("logits",))
    return [each.logits for each in found if each.logits is not None]  # as it is where it was asked for


def diagnostics(model: kqv.Model, group: Group, rows: list[list[int]], names: tuple[str, ...]) -> dict[str, Float[Tensor, "L H"]]:
    """The mean of each diagnostic over rows of token ids."""
    found = model.analyze(rows, weights="none", diagnostics=names, outputs=())
    return {name: torch.stack([each.attention[group].diagnostics[name] for each in found]).nanmean(0) for name in names}

"""The training loop that the mini models share: Muon and AdamW, a warm-up, and a cosine down to nothing."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

Batches = Callable[[], Mapping[str, Tensor]]
"""Draws the arguments of the model's next step, `labels` among them."""

REPORTS = 20
"""Lines of progress in a run."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long, and how fast."""

    steps: int
    rate: float
    """The highest learning rate."""
    warm_up: int = 200
    """Steps to the highest rate."""
    weight_decay: float = 0.1

    def share(self, step: int) -> float:
        """What part of the highest rate a step has."""
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        return 0.5 + 0.5 * math.cos(math.pi * (step - self.warm_up) / (self.steps - self.warm_up))


def train(model: PreTrainedModel, draw: Batches, plan: Plan) -> None:
    """Change the weights of a model of transformers', saying now and then what the loss was since the last time."""
    optimizers = make_optimizers(model, plan)
    schedules = [LambdaLR(optimizer, plan.share) for optimizer in optimizers]
    model.train()
    begun, total = time.monotonic(), 0.0
    every = max(1, plan.steps // REPORTS)
    for step in range(1, plan.steps + 1):
        total += update(model, draw(), optimizers)
        for schedule in schedules:
            schedule.step()
        if step % every == 0:
            print(f"step {step} of {plan.steps}: loss {total / every:.3f} after {time.monotonic() - begun:.0f} s", flush=True)
            total = 0.0
    model.eval()


def update(model: PreTrainedModel, batch: Mapping[str, Tensor], optimizers: list[Optimizer]) -> float:
    """One step; returns its loss."""
    loss = model(**batch).loss
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def make_optimizers(model: PreTrainedModel, plan: Plan) -> list[Optimizer]:
    """Muon (Jordan et al., 2024) for the matrices between embeddings and head, AdamW for the rest.

    With AdamW alone, mini-gpt's induction heads took more steps than there is time for: docs/minis.md has figures.
    """
    embeddings = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2 and parameter not in embeddings]
    rest = [parameter for parameter in model.parameters() if parameter.ndim < 2 or parameter in embeddings]
    return [
        Muon(matrices, lr=plan.rate, weight_decay=plan.weight_decay, adjust_lr_fn="match_rms_adamw"),
        AdamW(rest, lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]

"""How the next token is chosen among all."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kqv.errors import InputError

MOST_STOPS = 16
"""A generation looks for each of its stop texts after every token."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a text goes on; the fields are those of `POST /v1/generate`. Raises `InputError` for meaningless values."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    """Divides the logits; 0 takes the likeliest token always."""
    top_p: float = 1.0
    """Only the likeliest tokens that make up this share (Holtzman et al., 2020)."""
    top_k: int = 0
    """Only so many of the likeliest tokens; 0 for all."""
    seed: int | None = None
    """The same seed chooses the same tokens; chance without it."""
    stop: tuple[str, ...] = ()
    """Texts that end the generation; they and what follows are left out of its text."""

    def __post_init__(self) -> None:
        checks = {
            "max_new_tokens": (self.max_new_tokens >= 1, "1 or more"),
            "temperature": (self.temperature >= 0 and math.isfinite(self.temperature), "0 or more, and finite"),
            "top_p": (0 < self.top_p <= 1, "more than 0 and at most 1"),
            "top_k": (self.top_k >= 0, "0 or more"),
        }
        for field, (holds, needed) in checks.items():
            if not holds:
                raise InputError(f"{field} is {needed}, not {getattr(self, field)}", (field,))
        if len(self.stop) > MOST_STOPS or "" in self.stop:
            raise InputError(f"stop is at most {MOST_STOPS} texts, none of them empty", ("stop",))

    def generator(self) -> torch.Generator:
        """The source of chance of one generation."""
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator


def choose(logits: Float[Tensor, " V"], sampling: Sampling, generator: torch.Generator) -> int:
    """The next token's id. Chance is drawn on the CPU in float32, so that a seed means the same on every device."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    logits, ids = (logits.float().cpu() / sampling.temperature).sort(descending=True)
    if sampling.top_k:
        logits = logits[: sampling.top_k]
    probabilities = logits.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities  # the share of those that are likelier
    probabilities = probabilities * (before < sampling.top_p)
    return int(ids[torch.multinomial(probabilities, 1, generator=generator)])

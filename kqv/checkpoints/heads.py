"""Heads over the vocabulary, which many models don't have, or have in their embeddings."""

from collections.abc import Collection

from kqv.checkpoints.fields import Fields
from kqv.checkpoints.names import Source, Table
from kqv.config import Head

LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""How the names of transformers' models with a head end."""


def language_head(fields: Fields, tensors: Collection[str], *, tied: bool) -> Head:
    """A projection, where the file has one, the embeddings can serve, or config.json says that it is a model with a head."""
    called_for = any(name.endswith(LANGUAGE_MODELS) for name in fields.words("architectures"))
    return "linear" if tied or called_for or "lm_head.weight" in tensors else "none"


def projection(name: str, embeddings: str, *, tied: bool) -> Table:
    """The line of the table for the head's matrix; a tied one is mostly stored as the embeddings alone."""
    return {"head.projection.weight": Source(name, otherwise=embeddings if tied else "")}

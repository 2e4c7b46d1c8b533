"""What a model takes and gives in the protocol's terms. An output is called by its path in a result of /v1/analyze."""

from dataclasses import dataclass

import numpy as np

from kqv import Model
from kqv.config import Group
from kqv.diagnostics import DIAGNOSTICS
from kqv.selection import PER_HEAD

ANY = -1
PLATFORM = "kqv"
VERSION = "1"
"""The only one of each model: what is served doesn't change while the server runs."""


@dataclass(frozen=True)
class Signature:
    """One input or output."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    """-1 for any size; the first dimension is the sequence's place in the request."""
    filler: float | str = 0.0
    """What an output has where a sequence is shorter than the longest one of its request."""

    def describe(self) -> dict[str, object]:
        """As the model's metadata have it."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}

    def configure(self) -> dict[str, object]:
        """As its configuration has them."""
        data_type = {"BYTES": "TYPE_STRING"}.get(self.datatype, f"TYPE_{self.datatype}")
        return {"name": self.name, "data_type": data_type, "dims": list(self.shape)}


def inputs_of(model: Model) -> dict[str, Signature]:
    """What the model takes: `text`, `input_ids` or `embeddings`, and what belongs to each of them."""
    config = model.config
    inputs = []
    if model.tokenizer is not None:
        inputs.append(Signature("text", "BYTES", (ANY,)))
        if config.token_types > 1:
            inputs.append(Signature("pair", "BYTES", (ANY,)))
        if config.architecture == "encoder-decoder":
            inputs.append(Signature("target", "BYTES", (ANY,)))
    inputs += [
        Signature("input_ids", "INT64", (ANY, ANY)),
        Signature("embeddings", "FP32", (ANY, ANY, config.d_embedding)),
        Signature("attention_mask", "INT64", (ANY, ANY)),
    ]
    return {each.name: each for each in inputs}


def outputs_of(model: Model) -> dict[str, Signature]:
    """What the model gives."""
    outputs = [*reading_of("", model)]
    if model.config.architecture == "encoder-decoder":
        outputs += reading_of("target_", model)
    config = model.config
    outputs += [Signature("hidden", "FP32", (ANY, ANY, config.d_model)), Signature("pooled", "FP32", (ANY, config.d_model))]
    if config.head != "none":
        outputs.append(Signature("logits", "FP32", (ANY, ANY, config.vocabulary_size)))
    for group in config.groups:
        outputs += attention_of(group, model)
    return {each.name: each for each in outputs}


def describe_model(model: Model) -> dict[str, object]:
    """The model's metadata."""
    return {
        "name": model.id,
        "versions": [VERSION],
        "platform": PLATFORM,
        "inputs": [each.describe() for each in inputs_of(model).values()],
        "outputs": [each.describe() for each in outputs_of(model).values()],
    }


def describe_config(model: Model) -> dict[str, object]:
    """The model's configuration, in Triton's terms; its shapes are whole, so that there is no batch beyond them."""
    return {
        "name": model.id,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "max_batch_size": 0,
        "input": [each.configure() | {"optional": True} for each in inputs_of(model).values()],
        "output": [each.configure() for each in outputs_of(model).values()],
        "parameters": {"revision": {"string_value": model.revision}},
    }


def reading_of(prefix: str, model: Model) -> list[Signature]:
    """What was read: how long each sequence is, and its tokens."""
    tokens = [Signature(f"{prefix}tokens", "BYTES", (ANY, ANY), "")] if model.tokenizer is not None else []
    return [Signature(f"{prefix}lengths", "INT64", (ANY,)), Signature(f"{prefix}token_ids", "INT64", (ANY, ANY), -1), *tokens]


def attention_of(group: Group, model: Model) -> list[Signature]:
    """What one kind of attention has: [sequences, layers, heads, …]."""
    maps, rows = (ANY,) * 5, (*(ANY,) * 4, model.config.d_head)
    tensors = [Signature("weights", "FP32", maps), Signature("scaled_scores", "FP32", maps, -np.inf)]
    tensors += [Signature(name, "FP32", rows) for name in sorted(PER_HEAD - {"scaled_scores"})]
    for name in DIAGNOSTICS:
        tensors.append(Signature(f"diagnostics.{name}", "FP32", (ANY,) * (4 if name == "similarity" else 3), np.nan))
    return [Signature(f"attention.{group}.{each.name}", each.datatype, each.shape, each.filler) for each in tensors]

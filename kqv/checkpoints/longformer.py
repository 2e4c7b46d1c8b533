"""Longformer (Beltagy et al., 2020), Hugging Face's layout: RoBERTa with windows, and second projections for global tokens."""

from collections.abc import Collection
from dataclasses import replace

from kqv.checkpoints.fields import Fields
from kqv.checkpoints.names import Recipe, Table
from kqv.checkpoints.roberta import roberta

LAYER = "longformer.encoder.layer.*.attention.self"
GLOBAL: Table = {
    "encoder.layers.*.self_attention.global_projection.*": tuple(f"{LAYER}.{part}_global.*" for part in ("query", "key", "value"))
}


def longformer(fields: Fields, tensors: Collection[str]) -> Recipe:
    """Longformer, with its masked language model's head where the file has that.

    Without being told which tokens are global, transformers takes none of them, but for the classifiers of sequences the first.
    """
    classifies = any(name.endswith("ForSequenceClassification") for name in fields.words("architectures"))
    recipe = roberta(fields, tensors, model="longformer")
    windows = fields.sizes("attention_window", recipe.config.encoder_layers, default=512)
    config = replace(recipe.config, encoder_windows=windows, global_tokens="first" if classifies else "none")
    return replace(recipe, config=config, names=recipe.names | GLOBAL)

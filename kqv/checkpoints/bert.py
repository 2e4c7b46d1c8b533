"""BERT (Devlin et al., 2019) as Hugging Face lays it out."""

from collections.abc import Mapping
from typing import Any

from kqv.checkpoints.names import Table
from kqv.config import ModelConfig
from kqv.errors import CheckpointError

PREFIX = "bert."
"""What task models put before every name of the encoder."""

NAMES: Table = {
    "encoder.embedding.tokens.weight": "embeddings.word_embeddings.weight",
    "encoder.embedding.positions": "embeddings.position_embeddings.weight",
    "encoder.embedding.token_types.weight": "embeddings.token_type_embeddings.weight",
    "encoder.embedding.norm.*": "embeddings.LayerNorm.*",
    "encoder.layers.*.self_attention.in_projection.*": (
        "encoder.layer.*.attention.self.query.*",
        "encoder.layer.*.attention.self.key.*",
        "encoder.layer.*.attention.self.value.*",
    ),
    "encoder.layers.*.self_attention.out_projection.*": "encoder.layer.*.attention.output.dense.*",
    "encoder.layers.*.self_attention_norm.*": "encoder.layer.*.attention.output.LayerNorm.*",
    "encoder.layers.*.feed_forward.up.*": "encoder.layer.*.intermediate.dense.*",
    "encoder.layers.*.feed_forward.down.*": "encoder.layer.*.output.dense.*",
    "encoder.layers.*.feed_forward_norm.*": "encoder.layer.*.output.LayerNorm.*",
}

IGNORED = ("embeddings.position_ids", "pooler.dense.*", "cls.**", "classifier.**", "qa_outputs.**")
"""A buffer, and the heads of tasks: no part of what the attention does."""


def config(raw: Mapping[str, Any]) -> ModelConfig:
    """Their config.json in our terms. Raises `CheckpointError` for a variant that isn't BERT's own."""
    if raw.get("position_embedding_type", "absolute") != "absolute" or raw.get("is_decoder"):
        raise CheckpointError("this BERT has relative positions or is a decoder; kqv reads the encoder with absolute positions")
    if raw["hidden_act"] not in ("gelu", "relu"):
        raise CheckpointError(f"kqv has no activation {raw['hidden_act']!r}; it has gelu and relu")
    return ModelConfig(
        architecture="encoder",
        vocabulary_size=raw["vocab_size"],
        context=raw["max_position_embeddings"],
        d_model=raw["hidden_size"],
        num_heads=raw["num_attention_heads"],
        d_feed_forward=raw["intermediate_size"],
        encoder_layers=raw["num_hidden_layers"],
        norm_placement="post",
        norm_epsilon=raw["layer_norm_eps"],
        embedding_norm=True,
        activation=raw["hidden_act"],
        token_types=raw["type_vocab_size"],
    )

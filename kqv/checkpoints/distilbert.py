"""DistilBERT (Sanh et al., 2019) as Hugging Face lays it out: BERT without segments, under names of its own."""

from collections.abc import Collection

from kqv.checkpoints.fields import ACTIVATIONS, Fields
from kqv.checkpoints.heads import projection
from kqv.checkpoints.names import Recipe, Table
from kqv.config import ModelConfig

EMBEDDINGS = "distilbert.embeddings.word_embeddings.weight"

NAMES: Table = {
    "encoder.embedding.tokens.weight": EMBEDDINGS,
    "encoder.embedding.positions": "distilbert.embeddings.position_embeddings.weight",
    "encoder.embedding.norm.*": "distilbert.embeddings.LayerNorm.*",
    "encoder.layers.*.self_attention.in_projection.*": (
        "distilbert.transformer.layer.*.attention.q_lin.*",
        "distilbert.transformer.layer.*.attention.k_lin.*",
        "distilbert.transformer.layer.*.attention.v_lin.*",
    ),
    "encoder.layers.*.self_attention.out_projection.*": "distilbert.transformer.layer.*.attention.out_lin.*",
    "encoder.layers.*.self_attention_norm.*": "distilbert.transformer.layer.*.sa_layer_norm.*",
    "encoder.layers.*.feed_forward.up.*": "distilbert.transformer.layer.*.ffn.lin1.*",
    "encoder.layers.*.feed_forward.down.*": "distilbert.transformer.layer.*.ffn.lin2.*",
    "encoder.layers.*.feed_forward_norm.*": "distilbert.transformer.layer.*.output_layer_norm.*",
    "head.dense.*": "vocab_transform.*",
    "head.norm.*": "vocab_layer_norm.*",
    "head.projection.bias": "vocab_projector.bias",
}

IGNORED = ("distilbert.embeddings.position_ids", "pre_classifier.*", "classifier.*", "qa_outputs.*")
"""A buffer, and the heads of tasks."""


def distilbert(fields: Fields, tensors: Collection[str]) -> Recipe:
    """DistilBERT, with its masked language model's head where the file has that."""
    config = ModelConfig(
        architecture="encoder",
        vocabulary_size=fields.size("vocab_size"),
        context=fields.size("max_position_embeddings"),
        d_model=fields.size("dim", "hidden_size"),
        num_heads=fields.size("n_heads", "num_attention_heads"),
        d_feed_forward=fields.size("hidden_dim"),
        encoder_layers=fields.size("n_layers", "num_hidden_layers"),
        norm_placement="post",
        norm_epsilon=1e-12,
        embedding_norm=True,
        activation=fields.choice("activation", ACTIVATIONS, "gelu"),
        positions="sinusoidal" if fields.flag("sinusoidal_pos_embds", False) else "learned",
        head="transform" if any(name.startswith("vocab_") for name in tensors) else "none",
        head_bias=True,
    )
    tied = fields.flag("tie_word_embeddings", True)
    names = NAMES | projection("vocab_projector.weight", EMBEDDINGS, tied=tied)
    return Recipe(config=config, names=names, ignored=IGNORED, spellings=(("distilbert.", ""),))

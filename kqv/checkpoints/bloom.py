"""BLOOM (Scao et al., 2022) as Hugging Face lays it out: a GPT with ALiBi."""

from collections.abc import Collection
from functools import partial

from torch import Tensor

from kqv.checkpoints.fields import Fields
from kqv.checkpoints.heads import language_head, projection
from kqv.checkpoints.names import Recipe, Source, Table
from kqv.config import ModelConfig

NAMES: Table = {
    "decoder.embedding.tokens.weight": "transformer.word_embeddings.weight",
    "decoder.embedding.norm.*": "transformer.word_embeddings_layernorm.*",
    "decoder.layers.*.self_attention_norm.*": "transformer.h.*.input_layernorm.*",
    "decoder.layers.*.self_attention.out_projection.*": "transformer.h.*.self_attention.dense.*",
    "decoder.layers.*.feed_forward_norm.*": "transformer.h.*.post_attention_layernorm.*",
    "decoder.layers.*.feed_forward.up.*": "transformer.h.*.mlp.dense_h_to_4h.*",
    "decoder.layers.*.feed_forward.down.*": "transformer.h.*.mlp.dense_4h_to_h.*",
    "decoder.final_norm.*": "transformer.ln_f.*",
}


def bloom(fields: Fields, tensors: Collection[str]) -> Recipe:
    """BLOOM, whose head is its embeddings unless config.json says otherwise."""
    fields.refuse("apply_residual_connection_post_layernorm", "kqv adds to what came before the norm", unless=False)
    d_model, tied = fields.size("hidden_size", "n_embed"), fields.flag("tie_word_embeddings", True)
    config = ModelConfig(
        architecture="decoder",
        vocabulary_size=fields.size("vocab_size"),
        context=fields.size("seq_length", default=2048),  # what it was trained on: ALiBi itself has no end
        d_model=d_model,
        num_heads=fields.size("n_head", "num_attention_heads"),
        d_feed_forward=4 * d_model,
        decoder_layers=fields.size("n_layer", "num_hidden_layers"),
        norm_placement="pre",
        norm_epsilon=fields.number("layer_norm_epsilon", 1e-5),
        embedding_norm=True,
        final_norm=True,
        activation="gelu_tanh",
        positions="linear",
        head=language_head(fields, tensors, tied=tied),
        end_tokens=fields.tokens("eos_token_id"),
    )
    fused = Source("transformer.h.*.self_attention.query_key_value.*", change=partial(sorted_by_kind, config.num_heads))
    names = NAMES | {"decoder.layers.*.self_attention.in_projection.*": fused}
    names |= projection("lm_head.weight", "transformer.word_embeddings.weight", tied=tied)
    return Recipe(
        config=config, names=names, ignored=("score.weight", "classifier.*", "qa_outputs.*"), spellings=(("transformer.", ""),)
    )


def sorted_by_kind(num_heads: int, fused: Tensor) -> Tensor:
    """Their rows are q, k, v of one head after the other; ours are all heads' queries, then keys, then values."""
    return fused.unflatten(0, (num_heads, 3, -1)).transpose(0, 1).flatten(0, 2)

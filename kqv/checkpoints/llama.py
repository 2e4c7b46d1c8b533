"""Llama (Touvron et al., 2023) and its relatives as Hugging Face lays them out: Mistral, Qwen2, Qwen3; SmolLM is a Llama."""

from collections.abc import Collection
from typing import Literal

from kqv.checkpoints.fields import ACTIVATIONS, Fields
from kqv.checkpoints.heads import language_head, projection
from kqv.checkpoints.names import Recipe, Table
from kqv.config import ModelConfig, RopeScaling

NAMES: Table = {
    "decoder.embedding.tokens.weight": "model.embed_tokens.weight",
    "decoder.layers.*.self_attention_norm.*": "model.layers.*.input_layernorm.*",
    "decoder.layers.*.self_attention.in_projection.*": (
        "model.layers.*.self_attn.q_proj.*",
        "model.layers.*.self_attn.k_proj.*",
        "model.layers.*.self_attn.v_proj.*",
    ),
    "decoder.layers.*.self_attention.query_norm.*": "model.layers.*.self_attn.q_norm.*",
    "decoder.layers.*.self_attention.key_norm.*": "model.layers.*.self_attn.k_norm.*",
    "decoder.layers.*.self_attention.out_projection.*": "model.layers.*.self_attn.o_proj.*",
    "decoder.layers.*.feed_forward_norm.*": "model.layers.*.post_attention_layernorm.*",
    "decoder.layers.*.feed_forward.up.*": ("model.layers.*.mlp.gate_proj.*", "model.layers.*.mlp.up_proj.*"),
    "decoder.layers.*.feed_forward.down.*": "model.layers.*.mlp.down_proj.*",
    "decoder.final_norm.*": "model.norm.*",
}

IGNORED = ("model.layers.*.self_attn.rotary_emb.inv_freq", "score.*", "classifier.*", "qa_outputs.*")
"""A buffer that older files keep, and the heads of tasks."""

LAYER_TYPES = ("full_attention", "sliding_attention")
ROPE_SCALINGS: dict[str, Literal["linear", "llama3"] | None] = {"default": None, "linear": "linear", "llama3": "llama3"}


def llama(fields: Fields, tensors: Collection[str]) -> Recipe:
    """Llama 1 to 3, and what is built from it (SmolLM, TinyLlama, Vicuna)."""
    bias = fields.flag("attention_bias", False)
    mlp_bias = fields.flag("mlp_bias", False)
    return recipe(fields, tensors, query_key_value_bias=bias, output_bias=bias, feed_forward_bias=mlp_bias)


def mistral(fields: Fields, tensors: Collection[str]) -> Recipe:
    """Mistral (Jiang et al., 2023): a Llama in which every layer looks back through the same window, or through none."""
    return recipe(fields, tensors, windows=(window(fields),) * fields.size("num_hidden_layers"))


def qwen2(fields: Fields, tensors: Collection[str]) -> Recipe:
    """Qwen2 (Yang et al., 2024): a Llama with biases for queries, keys and values."""
    return recipe(fields, tensors, query_key_value_bias=True, windows=upper_windows(fields))


def qwen3(fields: Fields, tensors: Collection[str]) -> Recipe:
    """Qwen3 (Yang et al., 2025): a Llama with norms of each head's queries and keys."""
    bias, d_head = fields.flag("attention_bias", False), fields.size("head_dim", default=128)
    windows = upper_windows(fields)
    return recipe(fields, tensors, query_key_value_bias=bias, output_bias=bias, query_key_norm=True, d_head=d_head, windows=windows)


def recipe(
    fields: Fields,
    tensors: Collection[str],
    *,
    query_key_value_bias: bool = False,
    output_bias: bool = False,
    feed_forward_bias: bool = False,
    query_key_norm: bool = False,
    d_head: int = 0,
    windows: tuple[int, ...] = (),
) -> Recipe:
    """What all of them share, given what one of them has of its own."""
    theta, scaling = rope(fields)
    tied = fields.flag("tie_word_embeddings", False)
    config = ModelConfig(
        architecture="decoder",
        vocabulary_size=fields.size("vocab_size"),
        context=fields.size("max_position_embeddings"),
        d_model=fields.size("hidden_size"),
        num_heads=fields.size("num_attention_heads"),
        num_key_value_heads=fields.size("num_key_value_heads", default=0),
        d_head=d_head or fields.size("head_dim", default=0),
        d_feed_forward=fields.size("intermediate_size"),
        decoder_layers=fields.size("num_hidden_layers"),
        norm="rms",
        norm_placement="pre",
        norm_epsilon=fields.number("rms_norm_eps", 1e-6),
        final_norm=True,
        query_key_norm=query_key_norm,
        query_key_value_bias=query_key_value_bias,
        output_bias=output_bias,
        feed_forward_bias=feed_forward_bias,
        activation=fields.choice("hidden_act", ACTIVATIONS, "silu"),
        gated=True,
        positions="rotary",
        rope_theta=theta,
        rope_scaling=scaling,
        windows=windows,
        head=language_head(fields, tensors, tied=tied),
        end_tokens=fields.tokens("eos_token_id"),
    )
    names = NAMES | projection("lm_head.weight", "model.embed_tokens.weight", tied=tied)
    return Recipe(config=config, names=names, ignored=IGNORED, spellings=(("model.", ""),))


def upper_windows(fields: Fields) -> tuple[int, ...]:
    """Qwen's windows: of the layers that are listed as sliding, or where none are listed, of those from a certain one up."""
    layers, first = fields.size("num_hidden_layers"), fields.count("max_window_layers", default=28)
    kinds = fields.words("layer_types", LAYER_TYPES)
    slides = [kind == "sliding_attention" for kind in kinds] if kinds else [layer >= first for layer in range(layers)]
    used = window(fields) if fields.flag("use_sliding_window", False) else 0
    return tuple(used if slide else 0 for slide in slides)


def window(fields: Fields) -> int:
    """How many keys a query of a sliding layer sees; 0 for all. transformers takes 4096 where the field is left out."""
    return fields.size("sliding_window", default=0 if "sliding_window" in fields else 4096)


def rope(fields: Fields) -> tuple[float, RopeScaling | None]:
    """θ and its stretching, as transformers 4 (rope_theta, rope_scaling) or transformers 5 (rope_parameters) writes them."""
    given = fields.within("rope_scaling") or fields.within("rope_parameters")
    for part in (fields, given):
        part.refuse("partial_rotary_factor", "kqv turns the whole of each head", unless=1.0)
    for kind in LAYER_TYPES:
        given.refuse(kind, "kqv turns all layers alike")
    theta = given.number("rope_theta", fields.number("rope_theta", 10_000.0))
    scaling = given.choice("rope_type" if "rope_type" in given else "type", ROPE_SCALINGS, "default")
    return theta, None if scaling is None else stretching(given, scaling)


def stretching(given: Fields, kind: Literal["linear", "llama3"]) -> RopeScaling:
    """How a longer context was reached."""
    if kind == "linear":
        return RopeScaling(kind=kind, factor=given.number("factor"))
    return RopeScaling(
        kind=kind,
        factor=given.number("factor"),
        low_frequency_factor=given.number("low_freq_factor"),
        high_frequency_factor=given.number("high_freq_factor"),
        original_context=given.size("original_max_position_embeddings"),
    )

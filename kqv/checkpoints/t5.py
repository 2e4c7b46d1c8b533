"""T5 (Raffel et al., 2020) as Hugging Face lays it out, and what is built like it: T5 1.1, FLAN-T5, byT5, mT5."""

from collections.abc import Collection

from kqv.checkpoints.fields import Fields
from kqv.checkpoints.heads import language_head
from kqv.checkpoints.names import Recipe, Source, Table
from kqv.config import Activation, ModelConfig

NAMES: Table = {
    "encoder.embedding.tokens.weight": Source("shared.weight", otherwise="encoder.embed_tokens.weight"),
    "encoder.relative_bias": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "encoder.layers.*.self_attention_norm.*": "encoder.block.*.layer.0.layer_norm.*",
    "encoder.layers.*.self_attention.in_projection.*": (
        "encoder.block.*.layer.0.SelfAttention.q.*",
        "encoder.block.*.layer.0.SelfAttention.k.*",
        "encoder.block.*.layer.0.SelfAttention.v.*",
    ),
    "encoder.layers.*.self_attention.out_projection.*": "encoder.block.*.layer.0.SelfAttention.o.*",
    "encoder.layers.*.feed_forward_norm.*": "encoder.block.*.layer.1.layer_norm.*",
    "encoder.layers.*.feed_forward.up.*": "encoder.block.*.layer.1.DenseReluDense.wi.*",
    "encoder.layers.*.feed_forward.down.*": "encoder.block.*.layer.1.DenseReluDense.wo.*",
    "encoder.final_norm.*": "encoder.final_layer_norm.*",
    "decoder.embedding.tokens.weight": Source("shared.weight", otherwise="decoder.embed_tokens.weight"),
    "decoder.relative_bias": "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "decoder.layers.*.self_attention_norm.*": "decoder.block.*.layer.0.layer_norm.*",
    "decoder.layers.*.self_attention.in_projection.*": (
        "decoder.block.*.layer.0.SelfAttention.q.*",
        "decoder.block.*.layer.0.SelfAttention.k.*",
        "decoder.block.*.layer.0.SelfAttention.v.*",
    ),
    "decoder.layers.*.self_attention.out_projection.*": "decoder.block.*.layer.0.SelfAttention.o.*",
    "decoder.layers.*.cross_attention_norm.*": "decoder.block.*.layer.1.layer_norm.*",
    "decoder.layers.*.cross_attention.in_projection.*": (
        "decoder.block.*.layer.1.EncDecAttention.q.*",
        "decoder.block.*.layer.1.EncDecAttention.k.*",
        "decoder.block.*.layer.1.EncDecAttention.v.*",
    ),
    "decoder.layers.*.cross_attention.out_projection.*": "decoder.block.*.layer.1.EncDecAttention.o.*",
    "decoder.layers.*.feed_forward_norm.*": "decoder.block.*.layer.2.layer_norm.*",
    "decoder.layers.*.feed_forward.up.*": "decoder.block.*.layer.2.DenseReluDense.wi.*",
    "decoder.layers.*.feed_forward.down.*": "decoder.block.*.layer.2.DenseReluDense.wo.*",
    "decoder.final_norm.*": "decoder.final_layer_norm.*",
    "head.projection.weight": Source("lm_head.weight", otherwise="shared.weight"),
}

GATED: Table = {
    f"{side}.layers.*.feed_forward.up.*": (
        f"{side}.block.*.layer.{last}.DenseReluDense.wi_0.*",
        f"{side}.block.*.layer.{last}.DenseReluDense.wi_1.*",
    )
    for side, last in (("encoder", 1), ("decoder", 2))
}
"""What T5 1.1 has in place of one `wi`."""

IGNORED = (
    "encoder.embed_tokens.weight",  # copies of the shared embeddings
    "decoder.embed_tokens.weight",
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",  # in the first T5s, which never used it
    "classification_head.**",
    "classifier.*",
    "qa_outputs.*",
)

FEED_FORWARDS: dict[str, Activation] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "silu": "silu",
    "gated-gelu": "gelu_tanh",  # not "gelu": so T5 1.1 was trained
    "gated-gelu_new": "gelu_tanh",
    "gated-relu": "relu",
    "gated-silu": "silu",
}


def t5(fields: Fields, tensors: Collection[str]) -> Recipe:
    """T5, which scales before a head that is tied to its embeddings, and T5 1.1, which doesn't.

    transformers 5 ties both, and says by a field of its own which one it is.
    """
    scaled = fields.flag("scale_decoder_outputs", fields.flag("tie_word_embeddings", True))
    return recipe(fields, tensors, scaled=scaled, feed_forward="relu")


def mt5(fields: Fields, tensors: Collection[str]) -> Recipe:
    """mT5 (Xue et al., 2021), which is built like T5 1.1."""
    return recipe(fields, tensors, scaled=False, feed_forward="gated-gelu")


def recipe(fields: Fields, tensors: Collection[str], *, scaled: bool, feed_forward: str) -> Recipe:
    """All of the model, or its encoder where the file has that alone; `feed_forward` is what config.json may leave out."""
    has_decoder = any(name.startswith("decoder.") for name in tensors)
    encoder_only = not has_decoder and not any(name.endswith("ForConditionalGeneration") for name in fields.words("architectures"))
    layers, d_model = fields.size("num_layers", "num_hidden_layers"), fields.size("d_model", "hidden_size")
    gated = fields.choice("feed_forward_proj", {name: name.startswith("gated-") for name in FEED_FORWARDS}, feed_forward)
    config = ModelConfig(
        architecture="encoder" if encoder_only else "encoder-decoder",
        vocabulary_size=fields.size("vocab_size"),
        context=fields.size("n_positions", default=1024),  # the longest that any was trained on: the buckets have no end
        d_model=d_model,
        num_heads=fields.size("num_heads", "num_attention_heads"),
        d_head=fields.size("d_kv", "head_dim"),
        d_feed_forward=fields.size("d_ff"),
        encoder_layers=layers,
        decoder_layers=0 if encoder_only else fields.size("num_decoder_layers", default=layers),
        norm="rms",
        norm_placement="pre",
        norm_epsilon=fields.number("layer_norm_epsilon", 1e-6),
        final_norm=True,
        query_key_value_bias=False,
        output_bias=False,
        feed_forward_bias=False,
        activation=fields.choice("feed_forward_proj", FEED_FORWARDS, feed_forward),
        gated=gated,
        positions="relative",
        relative_buckets=fields.size("relative_attention_num_buckets", default=32),
        relative_max_distance=fields.size("relative_attention_max_distance", default=128),
        attention_scale=1.0,
        head="none" if encoder_only else language_head(fields, tensors, tied=fields.flag("tie_word_embeddings", True)),
        head_scale=d_model**-0.5 if scaled else 1.0,
        start_token=None if encoder_only else fields.token("decoder_start_token_id", fields.token("pad_token_id", 0)),
        end_tokens=fields.tokens("eos_token_id"),
    )
    return Recipe(config=config, names=NAMES | GATED if gated else NAMES, ignored=IGNORED)

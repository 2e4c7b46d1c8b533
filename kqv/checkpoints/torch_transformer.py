"""The original encoder–decoder (Vaswani et al., 2017) as `torch.nn.Transformer` has it, in a directory of our own making.

torch saves its module as a pickle and has no file that describes it, so here is what such a directory holds.

config.json, with the names of `torch.nn.Transformer`'s arguments where it has one:

    model_type               "torch_transformer"
    vocab_size               tokens, the same for source and target
    max_position_embeddings  the longest sequence
    d_model, nhead, num_encoder_layers, num_decoder_layers, dim_feedforward
    activation               "relu" (the default) or "gelu"
    norm_first               false (the default): a norm after each residual sum; true: before each sublayer
    layer_norm_eps           1e-5 unless given
    scale_embedding          whether embeddings are multiplied by √d_model, as in section 3.4; false unless given
    decoder_start_token_id   what the decoder begins with
    eos_token_id             what ends a generation: an id or a list of ids

model.safetensors:

    embedding.weight         [vocab_size, d_model], read by source and target
    positions                [max_position_embeddings, d_model], added after the scaling; without it, the paper's sines and cosines
    transformer.…            the state dict of `torch.nn.Transformer`, which ends each side with a norm (encoder.norm, decoder.norm)
    generator.weight         [vocab_size, d_model], the projection to logits; without it, embedding.weight serves
    generator.bias           [vocab_size], where the projection has one

tokenizer.json is optional, as everywhere.
"""

from collections.abc import Collection

from kqv.checkpoints.fields import Fields
from kqv.checkpoints.names import Recipe, Source, Table
from kqv.config import Activation, ModelConfig

NAMES: Table = {
    "*.embedding.tokens.weight": "embedding.weight",
    "*.embedding.positions": "positions",
    "*.layers.*.self_attention.in_projection.*": "transformer.*.layers.*.self_attn.in_proj_*",
    "*.layers.*.self_attention.out_projection.*": "transformer.*.layers.*.self_attn.out_proj.*",
    "*.layers.*.self_attention_norm.*": "transformer.*.layers.*.norm1.*",
    "*.layers.*.cross_attention.in_projection.*": "transformer.*.layers.*.multihead_attn.in_proj_*",
    "*.layers.*.cross_attention.out_projection.*": "transformer.*.layers.*.multihead_attn.out_proj.*",
    "*.layers.*.cross_attention_norm.*": "transformer.*.layers.*.norm2.*",
    "*.layers.*.feed_forward.up.*": "transformer.*.layers.*.linear1.*",
    "*.layers.*.feed_forward.down.*": "transformer.*.layers.*.linear2.*",
    "encoder.layers.*.feed_forward_norm.*": "transformer.encoder.layers.*.norm2.*",
    "decoder.layers.*.feed_forward_norm.*": "transformer.decoder.layers.*.norm3.*",
    "*.final_norm.*": "transformer.*.norm.*",
    "head.projection.weight": Source("generator.weight", otherwise="embedding.weight"),
    "head.projection.bias": "generator.bias",
}

ACTIVATIONS: dict[str, Activation] = {"relu": "relu", "gelu": "gelu"}


def torch_transformer(fields: Fields, tensors: Collection[str]) -> Recipe:
    """An encoder–decoder of `torch.nn.Transformer`'s."""
    d_model = fields.size("d_model")
    config = ModelConfig(
        architecture="encoder-decoder",
        vocabulary_size=fields.size("vocab_size"),
        context=fields.size("max_position_embeddings"),
        d_model=d_model,
        num_heads=fields.size("nhead"),
        d_feed_forward=fields.size("dim_feedforward"),
        encoder_layers=fields.size("num_encoder_layers"),
        decoder_layers=fields.size("num_decoder_layers"),
        norm_placement="pre" if fields.flag("norm_first", False) else "post",
        norm_epsilon=fields.number("layer_norm_eps", 1e-5),
        final_norm=True,
        activation=fields.choice("activation", ACTIVATIONS, "relu"),
        positions="sinusoidal",
        embedding_scale=d_model**0.5 if fields.flag("scale_embedding", False) else 1.0,
        head="linear",
        head_bias="generator.bias" in tensors,
        start_token=fields.token("decoder_start_token_id"),
        end_tokens=fields.tokens("eos_token_id"),
    )
    return Recipe(config=config, names=NAMES)

"""GPT-2 (Radford et al., 2019) as Hugging Face lays it out."""

from collections.abc import Collection

from torch import Tensor

from kqv.checkpoints.fields import ACTIVATIONS, Fields
from kqv.checkpoints.heads import language_head, projection
from kqv.checkpoints.names import Recipe, Source, Table
from kqv.config import ModelConfig


def transposed(weight: Tensor) -> Tensor:
    """Their projections are [in, out], ours [out, in]."""
    return weight.t().contiguous()


NAMES: Table = {
    "decoder.embedding.tokens.weight": "transformer.wte.weight",
    "decoder.embedding.positions": "transformer.wpe.weight",
    "decoder.layers.*.self_attention_norm.*": "transformer.h.*.ln_1.*",
    "decoder.layers.*.self_attention.in_projection.weight": Source("transformer.h.*.attn.c_attn.weight", change=transposed),
    "decoder.layers.*.self_attention.in_projection.bias": "transformer.h.*.attn.c_attn.bias",
    "decoder.layers.*.self_attention.out_projection.weight": Source("transformer.h.*.attn.c_proj.weight", change=transposed),
    "decoder.layers.*.self_attention.out_projection.bias": "transformer.h.*.attn.c_proj.bias",
    "decoder.layers.*.feed_forward_norm.*": "transformer.h.*.ln_2.*",
    "decoder.layers.*.feed_forward.up.weight": Source("transformer.h.*.mlp.c_fc.weight", change=transposed),
    "decoder.layers.*.feed_forward.up.bias": "transformer.h.*.mlp.c_fc.bias",
    "decoder.layers.*.feed_forward.down.weight": Source("transformer.h.*.mlp.c_proj.weight", change=transposed),
    "decoder.layers.*.feed_forward.down.bias": "transformer.h.*.mlp.c_proj.bias",
    "decoder.final_norm.*": "transformer.ln_f.*",
}

IGNORED = (
    "transformer.h.*.attn.bias",  # the causal mask, which older files keep
    "transformer.h.*.attn.masked_bias",
    "multiple_choice_head.**",
    "score.weight",
    "classifier.*",
    "qa_outputs.*",
)


def gpt2(fields: Fields, tensors: Collection[str]) -> Recipe:
    """GPT-2, whose head is its embeddings unless config.json says otherwise."""
    fields.refuse("add_cross_attention", "kqv reads the decoder alone", unless=False)
    fields.refuse("scale_attn_by_inverse_layer_idx", "kqv scales the scores of all layers alike", unless=False)
    d_model, tied = fields.size("n_embd", "hidden_size"), fields.flag("tie_word_embeddings", True)
    config = ModelConfig(
        architecture="decoder",
        vocabulary_size=fields.size("vocab_size"),
        context=fields.size("n_positions", "max_position_embeddings"),
        d_model=d_model,
        num_heads=fields.size("n_head", "num_attention_heads"),
        d_feed_forward=fields.size("n_inner", default=4 * d_model),
        decoder_layers=fields.size("n_layer", "num_hidden_layers"),
        norm_placement="pre",
        norm_epsilon=fields.number("layer_norm_epsilon", 1e-5),
        final_norm=True,
        activation=fields.choice("activation_function", ACTIVATIONS, "gelu_new"),
        attention_scale=0.0 if fields.flag("scale_attn_weights", True) else 1.0,
        head=language_head(fields, tensors, tied=tied),
        end_tokens=fields.tokens("eos_token_id"),
    )
    names = NAMES | projection("lm_head.weight", "transformer.wte.weight", tied=tied)
    return Recipe(config=config, names=names, ignored=IGNORED, spellings=(("transformer.", ""),))

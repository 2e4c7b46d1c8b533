"""BERT (Devlin et al., 2019) as Hugging Face lays it out."""

from collections.abc import Collection

from kqv.checkpoints.fields import ACTIVATIONS, Fields
from kqv.checkpoints.heads import projection
from kqv.checkpoints.names import Recipe, Source, Table
from kqv.config import Head, ModelConfig

EMBEDDINGS = "bert.embeddings.word_embeddings.weight"

HEAD: Table = {
    "head.dense.*": "cls.predictions.transform.dense.*",
    "head.norm.*": "cls.predictions.transform.LayerNorm.*",
    "head.projection.bias": Source("cls.predictions.decoder.bias", otherwise="cls.predictions.bias"),
}


def bert(fields: Fields, tensors: Collection[str]) -> Recipe:
    """BERT, with its masked language model's head where the file has that."""
    has_head = any(name.startswith("cls.predictions.") for name in tensors)
    config = encoder(fields, context=fields.size("max_position_embeddings"), head="transform" if has_head else "none")
    tied = fields.flag("tie_word_embeddings", True)
    return Recipe(
        config=config,
        names=encoder_names("bert") | HEAD | projection("cls.predictions.decoder.weight", EMBEDDINGS, tied=tied),
        ignored=(*unused("bert"), "cls.seq_relationship.*", "cls.predictions.bias"),
        # A model without a task has no prefix; what was converted from the first checkpoints calls its norms' weights otherwise.
        spellings=(("bert.", ""), ("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")),
    )


def encoder(fields: Fields, *, context: int, head: Head) -> ModelConfig:
    """Their config.json in our terms."""
    only_encoder = "kqv reads the encoder alone"
    fields.refuse("is_decoder", only_encoder, unless=False)
    fields.refuse("add_cross_attention", only_encoder, unless=False)
    fields.refuse("position_embedding_type", "kqv reads absolute positions", unless="absolute")
    return ModelConfig(
        architecture="encoder",
        vocabulary_size=fields.size("vocab_size"),
        context=context,
        d_model=fields.size("hidden_size"),
        num_heads=fields.size("num_attention_heads"),
        d_feed_forward=fields.size("intermediate_size"),
        encoder_layers=fields.size("num_hidden_layers"),
        norm_placement="post",
        norm_epsilon=fields.number("layer_norm_eps", 1e-12),
        embedding_norm=True,
        activation=fields.choice("hidden_act", ACTIVATIONS, "gelu"),
        token_types=fields.size("type_vocab_size", default=2),
        head=head,
        head_bias=True,
    )


def encoder_names(model: str) -> Table:
    """The names of the encoder in a file that calls it `model`."""
    layer = f"{model}.encoder.layer.*"
    return {
        "encoder.embedding.tokens.weight": f"{model}.embeddings.word_embeddings.weight",
        "encoder.embedding.positions": f"{model}.embeddings.position_embeddings.weight",
        "encoder.embedding.token_types.weight": f"{model}.embeddings.token_type_embeddings.weight",
        "encoder.embedding.norm.*": f"{model}.embeddings.LayerNorm.*",
        "encoder.layers.*.self_attention.in_projection.*": (
            f"{layer}.attention.self.query.*",
            f"{layer}.attention.self.key.*",
            f"{layer}.attention.self.value.*",
        ),
        "encoder.layers.*.self_attention.out_projection.*": f"{layer}.attention.output.dense.*",
        "encoder.layers.*.self_attention_norm.*": f"{layer}.attention.output.LayerNorm.*",
        "encoder.layers.*.feed_forward.up.*": f"{layer}.intermediate.dense.*",
        "encoder.layers.*.feed_forward.down.*": f"{layer}.output.dense.*",
        "encoder.layers.*.feed_forward_norm.*": f"{layer}.output.LayerNorm.*",
    }


def unused(model: str) -> tuple[str, ...]:
    """A buffer, and the heads of tasks: no part of what the attention does."""
    return (f"{model}.embeddings.position_ids", f"{model}.pooler.dense.*", "classifier.**", "qa_outputs.**")

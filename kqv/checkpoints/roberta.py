"""RoBERTa (Liu et al., 2019) as Hugging Face lays it out: BERT with other positions and another head."""

from collections.abc import Collection

from kqv.checkpoints import bert
from kqv.checkpoints.fields import Fields
from kqv.checkpoints.heads import projection
from kqv.checkpoints.names import Recipe, Source, Table

HEAD: Table = {
    "head.dense.*": "lm_head.dense.*",
    "head.norm.*": "lm_head.layer_norm.*",
    "head.projection.bias": Source("lm_head.decoder.bias", otherwise="lm_head.bias"),
}


def roberta(fields: Fields, tensors: Collection[str], model: str = "roberta") -> Recipe:
    """RoBERTa, with its masked language model's head where the file has that; the file calls the encoder `model`."""
    has_head = any(name.startswith("lm_head.") for name in tensors)
    if has_head:
        fields.refuse("hidden_act", "the head of RoBERTa has gelu whatever the layers have", unless="gelu")
    first = fields.token("pad_token_id", 1) + 1  # the rows before it are for padding, of which we have none
    context = fields.size("max_position_embeddings") - first
    positions = Source(f"{model}.embeddings.position_embeddings.weight", change=lambda table: table[first:])
    tied = fields.flag("tie_word_embeddings", True)
    names = bert.encoder_names(model) | {"encoder.embedding.positions": positions} | HEAD
    return Recipe(
        config=bert.encoder(fields, context=context, head="transform" if has_head else "none"),
        names=names | projection("lm_head.decoder.weight", f"{model}.embeddings.word_embeddings.weight", tied=tied),
        ignored=(*bert.unused(model), "lm_head.bias"),
        spellings=((f"{model}.", ""),),
    )

"""What a transformer is, apart from its weights."""

from dataclasses import dataclass
from typing import Literal

from kqv.errors import CheckpointError

Architecture = Literal["encoder", "decoder", "encoder-decoder"]
Group = Literal["encoder", "decoder", "cross"]
"""The kinds of attention in a model: encoder self-attention, decoder self-attention, decoder-to-encoder."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of an encoder (BERT), a decoder (GPT) or an encoder–decoder (the original Transformer).

    Raises `CheckpointError` where the numbers contradict each other.
    """

    architecture: Architecture
    vocabulary_size: int
    context: int
    """The longest sequence, in tokens, that the positions reach."""
    d_model: int
    """Width of the residual stream."""
    num_heads: int
    d_feed_forward: int
    encoder_layers: int = 0
    decoder_layers: int = 0
    norm_placement: Literal["pre", "post"] = "post"
    """LayerNorm before each sublayer, or after each residual sum as in Vaswani et al. (2017)."""
    norm_epsilon: float = 1e-5
    embedding_norm: bool = False
    """A LayerNorm right after the embeddings (BERT)."""
    final_norm: bool = False
    """A LayerNorm after the last layer of each stack."""
    activation: Literal["relu", "gelu"] = "relu"
    positions: Literal["sinusoidal", "learned"] = "learned"
    scale_embeddings: bool = False
    """Multiply token embeddings by √d_model (Vaswani et al., 2017, section 3.4)."""
    token_types: int = 0
    """Number of segment embeddings (BERT has 2); 0 for none."""
    language_model_head: bool = False
    """Whether the model ends in logits over the vocabulary."""
    pooling: Literal["mean", "first"] = "mean"
    """How one vector is made of a sequence: the mean of its tokens, or the first token."""
    normalize_pooled: bool = False
    """Scale the pooled vector to length 1 (sentence-transformers' `Normalize` module)."""

    def __post_init__(self) -> None:
        sizes = ("vocabulary_size", "context", "d_model", "num_heads", "d_feed_forward")
        wrong = [f"{name} = {getattr(self, name)!r}" for name in sizes if not positive(getattr(self, name))]
        if wrong:
            raise CheckpointError(f"the config gives {', '.join(wrong)}, which must be whole numbers above 0")
        if self.d_model % self.num_heads:
            raise CheckpointError(f"{self.num_heads} heads don't divide a width of {self.d_model}")
        if (self.encoder_layers > 0) != (self.architecture != "decoder"):
            raise CheckpointError(f"a model of kind {self.architecture!r} can't have {self.encoder_layers} encoder layers")
        if (self.decoder_layers > 0) != (self.architecture != "encoder"):
            raise CheckpointError(f"a model of kind {self.architecture!r} can't have {self.decoder_layers} decoder layers")

    @property
    def d_head(self) -> int:
        """Width of one head's queries, keys and values."""
        return self.d_model // self.num_heads

    @property
    def groups(self) -> dict[Group, int]:
        """The attention groups that the model has, each with its number of layers."""
        layers: dict[Group, int] = {
            "encoder": self.encoder_layers,
            "decoder": self.decoder_layers,
            "cross": self.decoder_layers if self.architecture == "encoder-decoder" else 0,
        }
        return {group: count for group, count in layers.items() if count}


def positive(value: object) -> bool:
    """Whether a value from a file is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0

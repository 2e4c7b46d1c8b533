"""What a transformer is, apart from its weights."""

from dataclasses import dataclass
from typing import Literal

from kqv.errors import CheckpointError

Architecture = Literal["encoder", "decoder", "encoder-decoder"]
Group = Literal["encoder", "decoder", "cross"]
"""The kinds of attention in a model: encoder self-attention, decoder self-attention, decoder-to-encoder."""
Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]
Positions = Literal["none", "learned", "sinusoidal", "rotary", "relative", "linear"]
"""Added to the embeddings (learned, sinusoidal), turning queries and keys (rotary), or biasing scores (relative: T5's buckets;
linear: ALiBi)."""
Head = Literal["none", "linear", "transform", "foreign"]
"""What makes logits of hidden states: nothing, a projection, or dense, activation, norm and projection (BERT's); or whatever the
model has, where it isn't one of ours."""

LONGEST_TABLE = 1 << 20
"""Most positions that sines are computed for beforehand."""


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the context that they were trained for."""

    kind: Literal["linear", "llama3"]
    factor: float
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 1.0
    original_context: int = 0
    """With "llama3": wavelengths over original_context / low_frequency_factor are stretched, those under
    original_context / high_frequency_factor are kept."""

    def __post_init__(self) -> None:
        if self.kind == "llama3" and self.low_frequency_factor >= self.high_frequency_factor:
            low, high = self.low_frequency_factor, self.high_frequency_factor
            raise CheckpointError(f"the low frequency factor of the rotary positions, {low}, must be under the high one, {high}")


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What a model is from outside, whoever runs it: what it reads, what it attends with, what it gives.

    Raises `CheckpointError` where the numbers contradict each other.
    """

    architecture: Architecture
    vocabulary_size: int
    context: int
    """The longest sequence, in tokens."""
    d_model: int
    """Width of the residual stream."""
    d_embedding: int = 0
    """Width of the vectors that may stand in for the looked-up embeddings; d_model if 0."""
    num_heads: int
    d_head: int = 0
    """Width of one head's queries, keys and values; d_model / num_heads if 0."""
    encoder_layers: int = 0
    decoder_layers: int = 0

    token_types: int = 0
    """Number of segment embeddings (BERT has 2); 0 for none."""
    head: Head = "none"
    start_token: int | None = None
    """What an encoder–decoder's decoder begins with."""
    end_tokens: tuple[int, ...] = ()
    """What ends a generation."""
    pooling: Literal["mean", "first"] = "mean"
    """How one vector is made of a sequence: the mean of its tokens, or the first token."""
    normalize_pooled: bool = False
    """Scale the pooled vector to length 1 (sentence-transformers' `Normalize` module)."""

    def __post_init__(self) -> None:
        self._check_sizes("vocabulary_size", "context", "d_model", "num_heads")
        if not self.d_head and self.d_model % self.num_heads:
            raise CheckpointError(f"{self.num_heads} heads don't divide a width of {self.d_model}")
        self._settle("d_embedding", self.d_model)
        self._settle("d_head", self.d_model // self.num_heads)
        if self.start_token is not None and self.start_token >= self.vocabulary_size:
            raise CheckpointError(f"the start token, {self.start_token}, is not among the {self.vocabulary_size} of the vocabulary")
        if (self.encoder_layers > 0) != (self.architecture != "decoder"):
            raise CheckpointError(f"a model of kind {self.architecture!r} can't have {self.encoder_layers} encoder layers")
        if (self.decoder_layers > 0) != (self.architecture != "encoder"):
            raise CheckpointError(f"a model of kind {self.architecture!r} can't have {self.decoder_layers} decoder layers")

    def _check_sizes(self, *names: str) -> None:
        wrong = [f"{name} = {getattr(self, name)!r}" for name in names if not positive(getattr(self, name))]
        if wrong:
            raise CheckpointError(f"the config gives {', '.join(wrong)}, which must be whole numbers above 0")

    def _settle(self, name: str, value: object) -> None:
        """Give a field that was left out the value that follows from the others."""
        if not getattr(self, name):
            object.__setattr__(self, name, value)

    @property
    def groups(self) -> dict[Group, int]:
        """The attention groups that the model has, each with its number of layers."""
        layers: dict[Group, int] = {
            "encoder": self.encoder_layers,
            "decoder": self.decoder_layers,
            "cross": self.decoder_layers if self.architecture == "encoder-decoder" else 0,
        }
        return {group: count for group, count in layers.items() if count}


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ModelShape):
    """What a transformer of ours is made of: an encoder (BERT), a decoder (GPT) or both (the original Transformer)."""

    num_key_value_heads: int = 0
    """Heads of keys and values, each shared by a group of query heads (Ainslie et al., 2023); as many as query heads if 0."""
    d_feed_forward: int

    norm: Literal["layer", "rms"] = "layer"
    """LayerNorm, or RMSNorm (Zhang and Sennrich, 2019)."""
    norm_placement: Literal["pre", "post"] = "post"
    """The norm before each sublayer, or after each residual sum as in Vaswani et al. (2017)."""
    norm_epsilon: float = 1e-5
    embedding_norm: bool = False
    """A norm right after the embeddings (BERT)."""
    final_norm: bool = False
    """A norm after the last layer of each stack."""
    query_key_norm: bool = False
    """An RMSNorm of each head's queries and keys (Qwen3)."""

    query_key_value_bias: bool = True
    output_bias: bool = True
    """Whether the attention's output projection adds a bias."""
    feed_forward_bias: bool = True
    activation: Activation = "relu"
    gated: bool = False
    """The feed-forward multiplies its activation by a second projection (Shazeer, 2020)."""

    positions: Positions = "learned"
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    relative_buckets: int = 32
    relative_max_distance: int = 128
    windows: tuple[int, ...] = ()
    """Keys that each decoder layer's query sees, itself included; 0 for all. Without it all layers see all."""
    encoder_windows: tuple[int, ...] = ()
    """Longformer: how many neighbours each encoder layer's query sees, an even number, half of them to either side. With it the
    layers have second projections, by which the global tokens look. Without it all layers see all."""
    global_tokens: Literal["none", "first"] = "none"
    """Which of Longformer's tokens are global where nobody says so."""
    attention_scale: float = 0.0
    """Factor of the scores; 1/√d_head if 0."""

    embedding_scale: float = 1.0
    """Factor of the token embeddings; √d_model in Vaswani et al. (2017), section 3.4."""
    head_bias: bool = False
    head_scale: float = 1.0
    """Factor of the hidden states before the head; T5's is 1/√d_model where the head is tied to the embeddings."""

    def __post_init__(self) -> None:
        self._check_sizes("vocabulary_size", "context", "d_model", "num_heads", "d_feed_forward")
        super().__post_init__()
        self._settle("num_key_value_heads", self.num_heads)
        self._settle("attention_scale", self.d_head**-0.5)
        self._settle("windows", (0,) * self.decoder_layers)
        if self.num_heads % self.num_key_value_heads:
            raise CheckpointError(f"{self.num_key_value_heads} key/value heads don't divide {self.num_heads} heads")
        if self.positions == "sinusoidal" and self.context > LONGEST_TABLE:
            raise CheckpointError(f"a table of sines for a context of {self.context} is past all measure; {LONGEST_TABLE} would do")
        if self.positions == "rotary" and self.d_head % 2:
            raise CheckpointError(f"rotary positions turn pairs of numbers, but a head has {self.d_head}")
        if self.positions == "relative" and not 4 <= self.relative_buckets < 2 * self.relative_max_distance:
            buckets = f"{self.relative_buckets} buckets of distances up to {self.relative_max_distance}"
            raise CheckpointError(f"relative positions need 4 buckets or more, and half of them within the distance, not {buckets}")
        if len(self.windows) != self.decoder_layers:
            raise CheckpointError(f"{len(self.windows)} windows are given for {self.decoder_layers} decoder layers")
        if self.encoder_windows and len(self.encoder_windows) != self.encoder_layers:
            raise CheckpointError(f"{len(self.encoder_windows)} windows are given for {self.encoder_layers} encoder layers")
        if odd := [window for window in self.encoder_windows if not positive(window) or window % 2]:
            raise CheckpointError(f"an encoder's windows are even, half of them to either side, and above 0, not {odd[0]!r}")


def positive(value: object) -> bool:
    """Whether a value from a file is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0

"""One transformer, that can be an encoder, a decoder or both: projection, attention, feed-forward, block, stack.

Everything here works on packed rows of tokens (`kqv.packing`). How the heads attend is an argument (`attend`): the plain pass takes
the fused kernel, an analysis takes one that looks.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu, relu, silu
from torch.overrides import TorchFunctionMode

from kqv.attention.biases import Bias, Linear, Relative, alibi_slopes
from kqv.attention.call import Attend, AttentionCall, OutputProjection
from kqv.attention.longformer import GlobalHeads, Longformer
from kqv.attention.masks import Causal, Everything, Mask, Window
from kqv.attention.packed import attend_packed
from kqv.cache import Cache
from kqv.config import Activation, Group, ModelConfig
from kqv.packing import Packing
from kqv.positions import Rotation, rotation, sinusoidal
from kqv.scratch import Scratch

ACTIVATION: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": relu,
    "gelu": gelu,
    "gelu_tanh": functools.partial(gelu, approximate="tanh"),
    "silu": silu,
}


class Row(NamedTuple):
    """Packed residual streams of N tokens and where each sequence lies in them."""

    x: Float[Tensor, "N W"]
    packing: Packing


class Inputs(NamedTuple):
    """What one side of a model reads, packed."""

    tokens: Int[Tensor, " N"] | Float[Tensor, "N W"]
    """Ids, or vectors that stand in for the looked-up embeddings."""
    packing: Packing
    token_types: Int[Tensor, " N"] | None = None
    """Segment of each token; all 0 without it."""
    caches: tuple[Cache, ...] = ()
    """For decoding: what each sequence has read before these tokens; they are added to it."""

    def positions(self) -> Int[Tensor, " N"]:
        """Each token's index in its own sequence."""
        return self.packing.positions(self.tokens.device, tuple(cache.length for cache in self.caches))


class Pass(NamedTuple):
    """What all layers of a stack share during one pass."""

    packing: Packing
    source: Row | None
    """What cross-attention looks at; None where there is none, or where the caches have it."""
    attend: Attend
    caches: tuple[Cache, ...]
    rotation: Rotation | None
    bias: Bias | None
    scratch: Scratch


class Attention(nn.Module):
    """Projects to queries, keys and values and attends; the rows of `in_projection` are [Q; K; V].

    What `out_projection` makes of it is for the caller to ask, a token at a time.
    """

    def __init__(self, config: ModelConfig, group: Group, layer: int) -> None:
        super().__init__()
        self.group, self.layer, self.scale = group, layer, config.attention_scale
        self.d_head, self.num_heads, self.num_key_value_heads = config.d_head, config.num_heads, config.num_key_value_heads
        self.widths = [self.d_head * heads for heads in (self.num_heads, self.num_key_value_heads, self.num_key_value_heads)]
        self.mask = mask(config, group, layer)
        self.in_projection = nn.Linear(config.d_model, sum(self.widths), bias=config.query_key_value_bias)
        self.query_norm = nn.RMSNorm(self.d_head, config.norm_epsilon) if config.query_key_norm else nn.Identity()
        self.key_norm = nn.RMSNorm(self.d_head, config.norm_epsilon) if config.query_key_norm else nn.Identity()
        self.out_projection = nn.Linear(self.widths[0], config.d_model, bias=config.output_bias)
        self.own = own(config, group, layer)
        self.global_projection = nn.Linear(config.d_model, sum(self.widths), bias=config.query_key_value_bias) if self.own else None

    def forward(self, x: Float[Tensor, "N W"], norm: nn.Module, run: Pass) -> Float[Tensor, "N P"]:
        """Attention of `norm(x)` to itself and what came before it, or in the cross group to the source: the heads' outputs."""
        look = self.look_across if self.group == "cross" else self.look_within
        call = self.call(*look(x, norm, run), run, self.look_globally(x, norm, run.packing))
        return run.attend(call).flatten(-2)

    def call(
        self,
        q: Float[Tensor, "N H D"],
        keys: tuple[Tensor, ...],
        values: tuple[Tensor, ...],
        run: Pass,
        global_heads: Callable[[], tuple[GlobalHeads, ...]] | None = None,
    ) -> AttentionCall:
        """What is asked of attention."""
        bias = None if self.group == "cross" else run.bias
        known = (self.group, self.layer, q, run.packing, keys, values, self.projection, self.mask, bias, self.scale)
        return AttentionCall(*known, own=self.own, global_heads=global_heads, scratch=run.scratch)

    @functools.cached_property
    def projection(self) -> OutputProjection:
        """What is known of the output projection, once the weights are there."""
        return OutputProjection(self.out_projection.weight, self.num_heads)

    def look_within(
        self, x: Float[Tensor, "N W"], norm: nn.Module, run: Pass
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Q of `norm(x)`; K and V of each sequence's tokens, those that were read before included."""
        q, k, v = self.heads(self.project(x, norm, slice(None), run.scratch))
        q, k = self.query_norm(q), self.key_norm(k)
        if run.rotation is not None:
            run.rotation.turn(q)
            run.rotation.turn(k)
        return q, *self.remember(run.packing.split(k), run.packing.split(v), run.caches)

    def heads(self, projected: Float[Tensor, "N _"]) -> list[Float[Tensor, "N _ D"]]:
        """Q, K and V of tokens' projections, as views."""
        return [part.unflatten(-1, (-1, self.d_head)) for part in projected.split(self.widths, dim=-1)]

    def look_globally(
        self, x: Float[Tensor, "N W"], norm: nn.Module, packing: Packing
    ) -> Callable[[], tuple[GlobalHeads, ...]] | None:
        """What makes each sequence's Q, K and V by the second projections, once and only if any of its tokens is global."""
        projection = self.global_projection
        if projection is None:
            return None

        @functools.cache
        def project_globally() -> tuple[GlobalHeads, ...]:
            heads = map(packing.split, self.heads(projection(norm(x))))
            return tuple(GlobalHeads(*(tensor.transpose(0, 1) for tensor in each)) for each in zip(*heads, strict=True))

        return project_globally

    def look_across(
        self, x: Float[Tensor, "N W"], norm: nn.Module, run: Pass
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Q of `norm(x)`; K and V of each sequence's source, projected now or when it was first seen."""
        q = self.project(x, norm, slice(0, self.widths[0]), run.scratch).unflatten(-1, (-1, self.d_head))
        if run.source is None:
            return q, *self.remember((), (), run.caches)
        both = self.project(run.source.x, nn.Identity(), slice(self.widths[0], None), run.scratch).unflatten(-1, (-1, self.d_head))
        k, v = both.chunk(2, dim=-2)
        split = run.source.packing.split
        return q, *self.remember(split(k), split(v), run.caches)

    def project(self, x: Float[Tensor, "N W"], norm: nn.Module, rows: slice, scratch: Scratch) -> Float[Tensor, "N P"]:
        """`norm(x)` through some of the rows of `in_projection`."""
        bias: Tensor | None = self.in_projection.bias  # torch's annotation forgets that it may be None
        bias = bias if bias is None else bias[rows]
        return scratch.linear(f"projected from {rows.start}", x, norm, self.in_projection.weight[rows], bias)

    def remember(
        self, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], caches: tuple[Cache, ...]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Add each sequence's keys and values to its cache and return all that is there; without caches, what was given."""
        if not caches:
            return keys, values
        for cache, k, v in zip(caches, keys, values, strict=False):  # none are given where the source is known
            cache.extend(self.group, self.layer, k, v)
        keys, values = zip(*(cache.read(self.group, self.layer) for cache in caches), strict=True)
        return keys, values


class FeedForward(nn.Module):
    """Two linear maps with an activation between them, a token at a time; gated by a third where the model does so."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation, self.gated = ACTIVATION[config.activation], config.gated
        width = config.d_feed_forward * (2 if config.gated else 1)
        self.up = nn.Linear(config.d_model, width, bias=config.feed_forward_bias)
        self.down = nn.Linear(config.d_feed_forward, config.d_model, bias=config.feed_forward_bias)

    def forward(self, x: Float[Tensor, "N W"]) -> Float[Tensor, "N W"]:
        if not self.gated:
            return self.down(self.activation(self.up(x)))
        gate, up = self.up(x).chunk(2, dim=-1)
        return self.down(self.activation(gate) * up)


class Block(nn.Module):
    """Self-attention, in an encoder–decoder's decoder cross-attention, feed-forward; each with its residual and norm."""

    def __init__(self, config: ModelConfig, group: Group, layer: int) -> None:
        super().__init__()
        self.pre_norm = config.norm_placement == "pre"
        self.self_attention = Attention(config, group, layer)
        self.self_attention_norm = norm(config)
        crosses = group == "decoder" and "cross" in config.groups
        self.cross_attention = Attention(config, "cross", layer) if crosses else None
        self.cross_attention_norm = norm(config) if crosses else None
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = norm(config)

    def forward(self, x: Float[Tensor, "N W"], run: Pass) -> Float[Tensor, "N W"]:
        x = self.attend(x, self.self_attention_norm, self.self_attention, run)
        if self.cross_attention is not None and self.cross_attention_norm is not None:
            x = self.attend(x, self.cross_attention_norm, self.cross_attention, run)
        return run.scratch.by_rows(self.feed, x)

    def attend(self, x: Float[Tensor, "N W"], norm: nn.Module, attention: Attention, run: Pass) -> Float[Tensor, "N W"]:
        """One of the attentions, with its residual and norm."""
        heads = attention(x, norm if self.pre_norm else nn.Identity(), run)
        return run.scratch.by_rows(lambda x, heads: self.add(x, attention.out_projection(heads), norm), x, heads)

    def feed(self, x: Float[Tensor, "N W"]) -> Float[Tensor, "N W"]:
        """The feed-forward likewise."""
        added = self.feed_forward(self.feed_forward_norm(x) if self.pre_norm else x)
        return self.add(x, added, self.feed_forward_norm)

    def add(self, x: Float[Tensor, "N W"], added: Float[Tensor, "N W"], norm: nn.Module) -> Float[Tensor, "N W"]:
        """x + sublayer(norm(x)), or norm(x + sublayer(x)) as in the original Transformer, of what the sublayer adds."""
        return x + added if self.pre_norm else norm(x + added)


class Embedding(nn.Module):
    """Tokens, and where the model has them positions and segments, summed; normed where the model does so."""

    positions: Tensor | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scale = config.embedding_scale
        self.tokens = nn.Embedding(config.vocabulary_size, config.d_model)
        if config.positions == "sinusoidal":
            self.register_buffer("positions", sinusoidal(config.context, config.d_model))
        else:
            learned = config.positions == "learned"
            self.register_parameter("positions", nn.Parameter(torch.empty(config.context, config.d_model)) if learned else None)
        self.token_types = nn.Embedding(config.token_types, config.d_model) if config.token_types else None
        self.norm = norm(config) if config.embedding_norm else nn.Identity()

    def lookup(self, ids: Int[Tensor, " N"]) -> Float[Tensor, "N W"]:
        """What each token adds to the sum."""
        return self.tokens(ids) * self.scale

    def forward(self, inputs: Inputs) -> Float[Tensor, "N W"]:
        x = inputs.tokens if inputs.tokens.is_floating_point() else self.lookup(inputs.tokens)
        if self.positions is not None:
            x = x + self.positions[inputs.positions()]
        if self.token_types is not None:
            types = torch.zeros(len(x), dtype=torch.long, device=x.device) if inputs.token_types is None else inputs.token_types
            x = x + self.token_types(types)
        return self.norm(x)


class Stack(nn.Module):
    """An encoder or a decoder: embeddings, layers, and the norm after them where the model has one."""

    def __init__(self, config: ModelConfig, group: Group) -> None:
        super().__init__()
        self.config, self.group = config, group
        self.embedding = Embedding(config)
        relative = config.positions == "relative"
        self.relative_bias = nn.Parameter(torch.empty(config.relative_buckets, config.num_heads)) if relative else None
        self.layers = nn.ModuleList(Block(config, group, layer) for layer in range(config.groups[group]))
        self.final_norm = norm(config) if config.final_norm else nn.Identity()

    @property
    def weight(self) -> Float[Tensor, "V W"]:
        """The table of token embeddings."""
        return self.embedding.tokens.weight

    @property
    def has_token_types(self) -> bool:
        """Whether it reads the segment of each token."""
        return self.embedding.token_types is not None

    def lookup(self, ids: Int[Tensor, " N"]) -> Float[Tensor, "N W"]:
        """What vectors stand in for."""
        return self.embedding.lookup(ids)

    def forward(self, inputs: Inputs, source: Row | None, attend: Attend) -> Row:
        x = self.embedding(inputs)
        run = self.begin(inputs, source, attend)
        for layer in self.layers:
            x = layer(x, run)
        return Row(self.final_norm(x), inputs.packing)

    def begin(self, inputs: Inputs, source: Row | None, attend: Attend) -> Pass:
        """What the layers share."""
        turn = rotation(self.config, inputs.positions(), self.weight.dtype) if self.config.positions == "rotary" else None
        return Pass(inputs.packing, source, attend, inputs.caches, turn, self.bias(), Scratch())

    @property
    def blocks(self) -> list[Block]:
        """The layers, by their type."""
        return [layer for layer in self.layers if isinstance(layer, Block)]

    def bias(self) -> Bias | None:
        """What the stack's positions add to its self-attention's scores."""
        if self.relative_bias is not None:
            return Relative(self.relative_bias, self.config.relative_max_distance, both_ways=self.group == "encoder")
        if self.config.positions == "linear":
            weight = self.embedding.tokens.weight
            # Not in half precision, in which the bias of a far key would be off by several units.
            return Linear(alibi_slopes(self.config.num_heads).to(weight.device, torch.promote_types(weight.dtype, torch.float32)))
        return None


class Head(nn.Module):
    """Logits over the vocabulary; BERT's head has a layer of its own before the projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scale = config.head_scale
        transforms = config.head == "transform"
        self.dense = nn.Linear(config.d_model, config.d_model) if transforms else nn.Identity()
        self.activation = ACTIVATION[config.activation] if transforms else nn.Identity()
        self.norm = norm(config) if transforms else nn.Identity()
        self.projection = nn.Linear(config.d_model, config.vocabulary_size, bias=config.head_bias)

    def forward(self, x: Float[Tensor, "N W"]) -> Float[Tensor, "N V"]:
        return self.projection(self.norm(self.activation(self.dense(x * self.scale))))


class Transformer(nn.Module):
    """An encoder (BERT), a decoder (GPT), or both (the original Transformer)."""

    mixes_lengths = True
    """Each sequence of a packed row attends by itself."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Stack(config, "encoder") if config.encoder_layers else None
        self.decoder = Stack(config, "decoder") if config.decoder_layers else None
        self.head = Head(config) if config.head != "none" else None

    def forward(self, encoder: Inputs | None, decoder: Inputs | None = None, attend: Attend = attend_packed) -> Row:
        """The last hidden states: the decoder's, where there is one.

        `encoder` and `decoder` hold the packed sequences of each side that the model has, in the same order. A decoder whose caches
        know the source needs no `encoder`.
        """
        return run_sides(self.encoder, self.decoder, encoder, decoder, attend)


RunSide = Callable[[Inputs, Row | None, Attend], Row]
"""An encoder or a decoder at work: what it reads, and what a decoder looks at of its source, in; its last hidden states out."""


def run_sides(
    encode: RunSide | None, decode: RunSide | None, encoder: Inputs | None, decoder: Inputs | None, attend: Attend
) -> Row:
    """The last hidden states of a model with these sides, those that have something to read: the decoder's, where there is one."""
    row: Row | None = None
    if encode is not None and encoder is not None:
        row = encode(encoder, None, attend)
    if decode is not None and decoder is not None:
        row = decode(decoder, row, attend)
    assert row is not None
    return row


def lay_out(config: ModelConfig) -> Transformer:
    """The model without numbers, on the meta device, for a checkpoint's tensors to be put in."""
    with torch.device("meta"), Unfilled():
        return Transformer(config)


class Unfilled(TorchFunctionMode):
    """Leaves new parameters as they are: to fill those of the meta device, torch would import its compiler, which takes 0.9 s."""

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def norm(config: ModelConfig) -> nn.Module:
    """The norm of this model, before or after its sublayers."""
    kind = nn.LayerNorm if config.norm == "layer" else nn.RMSNorm
    return kind(config.d_model, eps=config.norm_epsilon)


def mask(config: ModelConfig, group: Group, layer: int) -> Mask:
    """Who may look at whom in a layer: everyone at everyone, or a decoder's tokens backwards, as far as their window reaches."""
    if group != "decoder":
        return Everything()
    window = config.windows[layer]
    return Causal() & Window(before=window - 1, after=0) if window else Causal()


def own(config: ModelConfig, group: Group, layer: int) -> Longformer | None:
    """What a layer attends by, where that isn't the softmax over all keys that its mask leaves."""
    if group != "encoder" or not config.encoder_windows:
        return None
    return Longformer(window=config.encoder_windows[layer], global_tokens=(0,) if config.global_tokens == "first" else ())

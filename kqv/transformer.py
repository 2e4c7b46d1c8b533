"""One transformer, that can be an encoder, a decoder or both: projection, attention, feed-forward, block, stack.

Everything here works on packed rows of tokens (`kqv.packing`). How the heads attend is an argument (`attend`): the plain pass takes
the fused kernel, an analysis takes one that looks.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, relu
from torch.overrides import TorchFunctionMode

from kqv.attention.masks import Causal, Everything, Mask
from kqv.attention.packed import Attend, AttentionCall, attend_fused
from kqv.config import Group, ModelConfig
from kqv.packing import Packing
from kqv.positions import sinusoidal

ACTIVATION: dict[str, Callable[[Tensor], Tensor]] = {"relu": relu, "gelu": gelu}


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


class Attention(nn.Module):
    """Projects to queries, keys and values, attends, projects back; the rows of `in_projection` are [Q; K; V]."""

    def __init__(self, config: ModelConfig, group: Group, layer: int) -> None:
        super().__init__()
        self.group, self.layer = group, layer
        self.heads = (config.num_heads, config.d_head)
        self.mask: Mask = Causal() if group == "decoder" else Everything()
        self.in_projection = nn.Linear(config.d_model, 3 * config.d_model)
        self.out_projection = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Float[Tensor, "N W"], queries: Packing, source: Row | None, attend: Attend) -> Float[Tensor, "N W"]:
        """Self-attention of `x`, or attention of `x` to `source`."""
        q, k, v = (row.unflatten(-1, self.heads) for row in self.project(x, source))
        keys = queries if source is None else source.packing
        call = AttentionCall(self.group, self.layer, q, k, v, queries, keys, self.out_projection.weight, self.mask)
        return self.out_projection(attend(call).flatten(-2))

    def project(self, x: Float[Tensor, "N W"], source: Row | None) -> tuple[Tensor, Tensor, Tensor]:
        """Q of `x`, K and V of `source` or, without one, of `x` itself, in a single product."""
        if source is None:
            q, k, v = self.in_projection(x).chunk(3, dim=-1)
            return q, k, v
        width = x.shape[-1]
        weight, bias = self.in_projection.weight, self.in_projection.bias
        k, v = linear(source.x, weight[width:], bias[width:]).chunk(2, dim=-1)
        return linear(x, weight[:width], bias[:width]), k, v


class FeedForward(nn.Module):
    """Two linear maps with an activation between them, a token at a time."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = ACTIVATION[config.activation]
        self.up = nn.Linear(config.d_model, config.d_feed_forward)
        self.down = nn.Linear(config.d_feed_forward, config.d_model)

    def forward(self, x: Float[Tensor, "N W"]) -> Float[Tensor, "N W"]:
        return self.down(self.activation(self.up(x)))


class Block(nn.Module):
    """Self-attention, cross-attention where there is a source, feed-forward; each with its residual and norm."""

    def __init__(self, config: ModelConfig, group: Group, layer: int) -> None:
        super().__init__()
        self.pre_norm = config.norm_placement == "pre"
        self.self_attention = Attention(config, group, layer)
        self.self_attention_norm = layer_norm(config)
        if group == "decoder" and "cross" in config.groups:
            self.cross_attention = Attention(config, "cross", layer)
            self.cross_attention_norm = layer_norm(config)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = layer_norm(config)

    def forward(self, x: Float[Tensor, "N W"], packing: Packing, source: Row | None, attend: Attend) -> Float[Tensor, "N W"]:
        x = self.residual(x, self.self_attention_norm, self.self_attention, packing, None, attend)
        if source is not None:
            x = self.residual(x, self.cross_attention_norm, self.cross_attention, packing, source, attend)
        return self.residual(x, self.feed_forward_norm, self.feed_forward)

    def residual(self, x: Tensor, norm: nn.Module, sublayer: nn.Module, *inputs: object) -> Tensor:
        """x + sublayer(norm(x)), or norm(x + sublayer(x)) as in the original Transformer."""
        y: Tensor = x + sublayer(norm(x) if self.pre_norm else x, *inputs)
        return y if self.pre_norm else norm(y)


class Embedding(nn.Module):
    """Tokens, positions and segments summed, and normed where the model does so."""

    positions: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.token_scale = config.d_model**0.5 if config.scale_embeddings else 1.0
        self.tokens = nn.Embedding(config.vocabulary_size, config.d_model)
        if config.positions == "learned":
            self.positions = nn.Parameter(torch.empty(config.context, config.d_model))
        else:
            self.register_buffer("positions", sinusoidal(config.context, config.d_model), persistent=False)
        self.token_types = nn.Embedding(config.token_types, config.d_model) if config.token_types else None
        self.norm = layer_norm(config) if config.embedding_norm else nn.Identity()

    def lookup(self, ids: Int[Tensor, " N"]) -> Float[Tensor, "N W"]:
        """What each token adds to the sum."""
        return self.tokens(ids) * self.token_scale

    def forward(self, inputs: Inputs) -> Float[Tensor, "N W"]:
        x = inputs.tokens if inputs.tokens.is_floating_point() else self.lookup(inputs.tokens)
        x = x + self.positions[inputs.packing.positions(x.device)]
        if self.token_types is not None:
            types = torch.zeros(len(x), dtype=torch.long, device=x.device) if inputs.token_types is None else inputs.token_types
            x = x + self.token_types(types)
        return self.norm(x)


class Stack(nn.Module):
    """An encoder or a decoder: embeddings, layers, and the norm after them where the model has one."""

    def __init__(self, config: ModelConfig, group: Group) -> None:
        super().__init__()
        self.embedding = Embedding(config)
        self.layers = nn.ModuleList(Block(config, group, layer) for layer in range(config.groups[group]))
        self.final_norm = layer_norm(config) if config.final_norm else nn.Identity()

    def forward(self, inputs: Inputs, source: Row | None, attend: Attend) -> Row:
        x = self.embedding(inputs)
        for layer in self.layers:
            x = layer(x, inputs.packing, source, attend)
        return Row(self.final_norm(x), inputs.packing)


class Transformer(nn.Module):
    """An encoder (BERT), a decoder (GPT), or both (the original Transformer)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Stack(config, "encoder") if config.encoder_layers else None
        self.decoder = Stack(config, "decoder") if config.decoder_layers else None
        self.head = nn.Linear(config.d_model, config.vocabulary_size) if config.language_model_head else None

    def forward(self, encoder: Inputs | None, decoder: Inputs | None = None, attend: Attend = attend_fused) -> Row:
        """The last hidden states: the decoder's, where there is one.

        `encoder` and `decoder` hold the packed sequences of each side that the model has, in the same order.
        """
        row: Row | None = None
        for stack, inputs in ((self.encoder, encoder), (self.decoder, decoder)):
            if stack is not None:
                row = stack(inputs, row, attend)
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


def layer_norm(config: ModelConfig) -> nn.LayerNorm:
    """The norm of this model, before or after its sublayers."""
    return nn.LayerNorm(config.d_model, eps=config.norm_epsilon)

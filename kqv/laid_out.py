"""A transformer of ours, laid out for C: a pass over a packed batch is one call.

kqv/transformer.py says what is computed. How the heads attend stays an argument. Where it is known beforehand that they attend
densely, and that nothing is wanted of it but sums and weights, C does that too; else each layer's attention is made as ever,
between two calls.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kqv.attention.call import Attend, AttentionCall
from kqv.attention.foresight import Foreseen, Foresight
from kqv.attention.packed import attend_packed
from kqv.attention.statistics import QUANTITIES
from kqv.native import attention as native
from kqv.native.arena import Arena
from kqv.native.library import library
from kqv.native.panels import CPanels, Panels, lay_out, room
from kqv.native.shapes import Shelf, shape
from kqv.native.stack import CLayer, CLook, CLooks, CPass, CStack, between, run_through
from kqv.native.structures import full
from kqv.network import Network
from kqv.transformer import Attention, Block, Inputs, Pass, Row, Stack, Transformer, run_sides

PLANES = (*QUANTITIES, "normalized_entropy", "output_norm")
"""By their numbers in call.h and pass.c."""


def laid_out(network: Network) -> Network:
    """The network with each side that C serves laid out for it; without one, as it is. Its weights must not change from here on."""
    if not isinstance(network, Transformer) or not (serves(network.encoder) or serves(network.decoder)):
        return network
    return LaidOut(network)


def serves(stack: Stack | None) -> bool:
    """Whether pass.c has all that a stack is made of: self-attention and feed-forward, in float32 on the CPU."""
    if stack is None or library() is None:
        return False
    weights = {(parameter.device.type, parameter.dtype) for parameter in stack.parameters()}
    plain = all(block.cross_attention is None and block.self_attention.own is None for block in stack.blocks)
    return plain and weights == {("cpu", torch.float32)}


class LaidOut:
    """A `Network` whose sides go by C where they can."""

    def __init__(self, transformer: Transformer) -> None:
        self.config, self.mixes_lengths, self.parameters = transformer.config, transformer.mixes_lengths, transformer.parameters
        self.encoder, self.decoder, self.head = transformer.encoder, transformer.decoder, transformer.head
        self._encode, self._decode = (
            LaidOutStack(side) if side is not None and serves(side) else side for side in (self.encoder, self.decoder)
        )

    def __call__(self, encoder: Inputs | None, decoder: Inputs | None = None, attend: Attend = attend_packed) -> Row:
        """As `Transformer.forward`."""
        return run_sides(self._encode, self._decode, encoder, decoder, attend)


class LaidOutStack:
    """An encoder or a decoder that C serves, its matrices in panels, which are a second copy of them."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        linears = [module for module in stack.modules() if isinstance(module, nn.Linear)]
        self._arena, self._shelf = Arena(sum(room(linear.weight) for linear in linears)), Shelf()
        self._panels: list[Panels] = []
        layers = (CLayer * len(stack.layers))(*map(self._layer, stack.blocks))
        norm = self._shelf.norm(stack.final_norm)
        self._structure = CStack(self._shelf.put(layers), norm, len(layers), shape(stack.config))
        self._asked, self._width = self._panels[0].stride, self._panels[1].stride

    def __call__(self, inputs: Inputs, source: Row | None, attend: Attend) -> Row:
        """As `Stack.forward`."""
        run, width, tokens = self.stack.begin(inputs, source, attend), self.stack.config.d_model, inputs.packing.tokens
        x, asked = full(tokens, self._width), full(tokens, self._asked)
        x[:, :width] = self.stack.embedding(inputs)
        call = CPass(ctypes.addressof(self._structure), x.data_ptr(), asked.data_ptr(), tokens=tokens)
        if run.rotation is not None:
            call.cosines, call.sines = run.rotation.cos.data_ptr(), run.rotation.sin.data_ptr()
        attentions = [block.self_attention for block in self.stack.blocks]
        if inputs.caches or not at_once(call, calling_all(attentions, asked, run), attend):
            for layer, attention in enumerate(attentions):
                between(call, layer)
                given = attend(calling(attention, asked, run)).contiguous()
                call.given = given.data_ptr()
            between(call, len(attentions))
        return Row(x[:, :width].contiguous(), inputs.packing)

    def _layer(self, block: Block) -> CLayer:
        attention, feed_forward = block.self_attention, block.feed_forward
        parts = 2 if feed_forward.gated else 1
        matrices = [self._matrix(linear) for linear in (attention.in_projection, attention.out_projection, feed_forward.down)]
        up = [self._matrix(feed_forward.up, part, parts) for part in range(parts)]
        return CLayer(
            **self._shelf.norms(block.self_attention_norm, block.feed_forward_norm, attention.query_norm, attention.key_norm),
            in_=matrices[0],
            out=matrices[1],
            down=matrices[2],
            up=up[0],
            times=up[-1],
        )

    def _matrix(self, linear: nn.Linear, part: int = 0, parts: int = 1) -> CPanels:
        """A linear layer, or one of the equal parts that its rows are."""
        bias: Tensor | None = linear.bias  # torch's annotation forgets that it may be None
        panels = lay_out(linear.weight.chunk(parts)[part], bias if bias is None else bias.chunk(parts)[part], self._arena)
        self._panels.append(panels)
        return panels.structure


def calling(attention: Attention, asked: Float[Tensor, "N _"], run: Pass) -> AttentionCall:
    """The call of a layer whose heads ask this."""
    q, k, v = attention.heads(asked[:, : sum(attention.widths)])
    return attention.call(q, *attention.remember(run.packing.split(k), run.packing.split(v), run.caches), run)


def calling_all(attentions: Sequence[Attention], asked: Float[Tensor, "N _"], run: Pass) -> list[AttentionCall]:
    """The same of all layers of a pass without caches, each of which will ask in the same place."""
    first = calling(attentions[0], asked, run)
    return [replace(first, layer=each.layer, mask=each.mask, projection=each.projection) for each in attentions]


def foresee(attend: Attend, calls: Sequence[AttentionCall]) -> Foreseen | None:
    """What is wanted of the layers' attention, where C can do all of it in one pass: dense, sums and weights alone; else None."""
    if not native.serves(calls[0], looks=True) or calls[0].bias_of_pairs:
        return None
    if attend is attend_packed:
        return Foreseen(layers=[None] * len(calls))
    return attend.foresee(calls) if isinstance(attend, Foresight) else None


def at_once(run: CPass, calls: Sequence[AttentionCall], attend: Attend) -> bool:
    """The whole pass, if what is wanted of it is foreseen; whether it was."""
    wanted = foresee(attend, calls)
    if wanted is None:
        return False
    asked, ends = native.ask(calls[0], wanted.tokens, wanted.top_k, len(PLANES)), torch.tensor(calls[0].queries.lengths).cumsum(0)
    planes = torch.tensor([PLANES.index(name) for name in wanted.measures])
    sums, worst = full(len(calls), len(planes), asked.output.shape[1], len(ends)), full(len(calls), 2, len(ends))
    limits, maps = [call.limits() for call in calls], native.keep_maps(wanted.maps, len(calls))
    looks = (CLook * len(calls))()
    for layer, (look, limit, counted) in enumerate(zip(looks, limits, wanted.layers, strict=True)):
        assert limit is not None  # the masks of a stack's self-attention are stretches
        look.low, look.high = limit.low.data_ptr(), limit.high.data_ptr()
        if counted is not None:
            look.factors, look.counted = calls[layer].projection.factors.data_ptr(), counted.counted.data_ptr()
            look.most, look.sums, look.worst = counted.most.data_ptr(), sums[layer].data_ptr(), worst[layer].data_ptr()
            look.maps = ctypes.addressof(maps[layer]) if any(wanted.maps) else None
    run.given = asked.output.data_ptr()
    rows = calls[0].projection.factors.shape[1] if wanted.measures else 0  # else they need never be made
    places = (ctypes.addressof(part) for part in (asked.structure, looks))
    run_through(run, CLooks(*places, planes.data_ptr(), ends.data_ptr(), len(planes), rows))
    if isinstance(attend, Foresight) and wanted.measures:
        attend.take(calls, wanted, sums, worst)
    return True

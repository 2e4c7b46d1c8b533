"""A transformer of ours, laid out for C: in a pass over a packed batch, all that lies between two attentions is one call.

kqv/transformer.py says what is computed. How the heads attend stays an argument, so that what looks at them, and what attends in
place of dense attention, is the same here and there.
"""

import ctypes

import torch
from torch import Tensor, nn

from kqv.attention.call import Attend
from kqv.attention.packed import attend_packed
from kqv.native.arena import Arena
from kqv.native.library import library
from kqv.native.panels import CPanels, Panels, lay_out, room
from kqv.native.shapes import Shelf, shape
from kqv.native.stack import CLayer, CPass, CStack, between
from kqv.native.structures import full
from kqv.network import Network
from kqv.transformer import Attention, Block, Inputs, Pass, Row, Stack, Transformer, run_sides


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
        for layer, block in enumerate(self.stack.blocks):
            between(call, layer)
            given = attended(block.self_attention, asked, run)
            call.given = given.data_ptr()
        between(call, len(self.stack.blocks))
        return Row(x[:, :width].contiguous(), inputs.packing)

    def _layer(self, block: Block) -> CLayer:
        attention, feed_forward = block.self_attention, block.feed_forward
        parts = 2 if feed_forward.gated else 1
        matrices = [self._matrix(linear) for linear in (attention.in_projection, attention.out_projection, feed_forward.down)]
        up = [self._matrix(feed_forward.up, part, parts) for part in range(parts)]
        return CLayer(
            attention_norm=self._shelf.norm(block.self_attention_norm),
            feed_forward_norm=self._shelf.norm(block.feed_forward_norm),
            query_norm=self._shelf.norm(attention.query_norm).weight,
            key_norm=self._shelf.norm(attention.key_norm).weight,
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


def attended(attention: Attention, asked: Tensor, run: Pass) -> Tensor:
    """What the heads of a layer give for what they ask, [N, H, D]."""
    q, k, v = attention.heads(asked[:, : sum(attention.widths)])
    keys, values = attention.remember(run.packing.split(k), run.packing.split(v), run.caches)
    return run.attend(attention.call(q, keys, values, run)).contiguous()

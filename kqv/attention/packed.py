"""Attention over a packed batch, by the fastest form that does it here: the C part, the GPU's kernel, torch's, or plain torch."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from kqv.attention.call import AttentionCall
from kqv.attention.fused import fused
from kqv.attention.lowering import Attended
from kqv.attention.maps import Maps, RemadeMaps
from kqv.attention.masks import Causal, Everything
from kqv.attention.relations import Tokens
from kqv.attention.result import AttentionResult
from kqv.attention.streaming import Streamed, streaming
from kqv.gpu import attention as gpu
from kqv.native import attention as native


class Observed(NamedTuple):
    """The heads' outputs, and what is known of each query's softmax: a plane for each of `QUANTITIES`."""

    output: Float[Tensor, "N H D"]
    quantities: Float[Tensor, "P H N"]


def in_one_call(call: AttentionCall, looks: bool) -> Callable[..., Attended] | None:
    """What does the whole batch at once, with statistics where they are asked for; nothing does every call on every machine."""
    if native.serves(call, looks):
        return native.attend
    return gpu.attend if gpu.serves(call) else None


def attend_packed(call: AttentionCall) -> Float[Tensor, "N H D"]:
    """The outputs alone."""
    attend = in_one_call(call, looks=False)
    if call.own is None and attend is not None and not (call.q.is_cuda and plain(call)):
        return attend(call).output
    return join(call, [sequence.by(call.variant(index) or fused) for index, sequence in enumerate(call.sequences())])


def plain(call: AttentionCall) -> bool:
    """Whether it is what the makers of GPUs write their own kernels for: one sequence, whole or looking back."""
    whole = isinstance(call.mask, Everything) or (isinstance(call.mask, Causal) and call.queries.lengths == call.key_lengths)
    return len(call.keys) == 1 and whole and call.bias is None


def observe_packed(call: AttentionCall, tokens: Sequence[Tokens], top_k: Sequence[int]) -> Observed:
    """The outputs and the statistics; `tokens` and `top_k` tell of each sequence what there is to know, and how much to sum.

    By the softmax over all keys that the mask leaves, whatever the layer's own attention is.
    """
    attend = in_one_call(call, looks=True)
    if attend is not None:
        output, quantities = attend(call, tokens, top_k)
        assert quantities is not None
        return Observed(output, quantities)
    streams = []
    for sequence, known, k in zip(call.sequences(), tokens, top_k, strict=True):
        streams.append(sequence.by(partial(streaming, tokens=known, top_k=k)))
    quantities = torch.cat([stream.quantities[:, 0] for stream in streams], dim=-1)
    return Observed(join(call, streams), quantities)


def remake(call: AttentionCall, index: int, logsumexp: Float[Tensor, "H T"]) -> Maps:
    """The maps of a sequence whose attention is over, any part of them."""
    sequence = call.sequence(index)
    if native.serves(call, looks=True):
        return native.NativeMaps(sequence, call, index)
    return RemadeMaps(sequence, logsumexp)


def join(call: AttentionCall, results: Sequence[AttentionResult | Streamed]) -> Float[Tensor, "N H D"]:
    """The sequences' outputs as one packed row, in the model's dtype."""
    return torch.cat([result.output[0].transpose(0, 1) for result in results]).to(call.q.dtype)

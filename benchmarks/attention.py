"""What it costs to look: attention with all its statistics against attention alone, ours and torch's, a layer at a time."""

from functools import partial

import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.side_by_side import Call, side_by_side
from kqv.attention.call import AttentionCall, OutputProjection
from kqv.attention.masks import Causal, Everything
from kqv.attention.packed import attend_packed, observe_packed
from kqv.attention.relations import Tokens
from kqv.attention.streaming import streaming
from kqv.packing import Packing

SHAPES = (
    (8, 128, 12, 32, False),
    (8, 512, 12, 32, False),
    (4, 512, 12, 64, False),
    (1, 2048, 9, 64, True),
    (1, 4096, 12, 64, False),
)
"""Sequences, tokens of each, heads, width, and whether they look back only: MiniLM's, SmolLM2's and BERT's."""


@torch.inference_mode()
def run() -> None:
    """Output alone and with statistics, by the C part and by plain torch, against torch's fused kernel."""
    for sequences, length, heads, width, is_causal in SHAPES:
        packed = [torch.randn(sequences * length, heads, width) for _ in "qkv"]
        q, k, v = [tensor.unflatten(0, (sequences, length)).transpose(1, 2) for tensor in packed]
        call = make_call(packed, sequences, length, is_causal)
        ids = torch.randint(0, 2000, (sequences, length))
        tokens = [Tokens(length, length, torch.device("cpu"), ids=each, special=each == 0) for each in ids]
        rivals: dict[str, Call] = {
            "torch's fused kernel": partial(scaled_dot_product_attention, q, k, v, is_causal=is_causal),
            "kqv, the output alone": partial(attend_packed, call),
            "kqv, with all statistics": partial(observe_packed, call, tokens, [8] * sequences),
        }
        if sequences * length <= 2048:
            rivals["kqv without C, with all statistics"] = partial(stream, call, tokens)
        look = "looking back" if is_causal else "looking both ways"
        side_by_side(f"{sequences} × {length} tokens, {heads} heads of {width}, {look}", rivals, rounds=9)


def make_call(packed: list[torch.Tensor], sequences: int, length: int, is_causal: bool) -> AttentionCall:
    q, k, v = packed
    lengths = Packing((length,) * sequences)
    projection = OutputProjection(torch.randn(8, q.shape[1] * q.shape[2]), q.shape[1])
    mask = Causal() if is_causal else Everything()
    return AttentionCall("encoder", 0, q, lengths, lengths.split(k), lengths.split(v), projection, mask, None, q.shape[2] ** -0.5)


def stream(call: AttentionCall, tokens: list[Tokens]) -> None:
    for sequence, known in zip(call.sequences(), tokens, strict=True):
        sequence.by(partial(streaming, tokens=known))

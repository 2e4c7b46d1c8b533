"""Attention calls on random numbers, and what they must give: the whole map's figures, in float64."""

from typing import Any

import torch
from torch import Tensor

from kqv.attention.biases import Bias
from kqv.attention.call import AttentionCall, OutputProjection
from kqv.attention.dense import dense
from kqv.attention.masks import Mask
from kqv.attention.relations import Tokens
from kqv.attention.statistics import QUANTITIES, quantities_of_weights
from kqv.packing import Packing

# float32 keeps 2^-24 of a score, here up to 30, and of sums of up to 700 terms; measured, it comes to a third of these.
OUTPUT = {"rtol": 1e-5, "atol": 1e-5}
TOLERANCE = {name: {"rtol": 1e-5, "atol": 2e-6} for name in QUANTITIES} | {
    "entropy": {"rtol": 0, "atol": 2e-5},
    "logsumexp": {"rtol": 1e-6, "atol": 1e-5},
}
HALF = {name: {"rtol": 2e-3, "atol": 2e-3} for name in QUANTITIES}
HALF_OUTPUT = {"rtol": 2**-7, "atol": 2e-3}  # bfloat16 has 8 digits, and Triton's interpreter cuts where a GPU rounds


def known(queries: int, keys: int, *, same: bool = True, device: str = "cpu") -> Tokens:
    """Tokens of a small vocabulary, so that many come again; one in seven is special."""
    ids = torch.randint(0, 11, (keys,)).to(device)
    return Tokens(queries, keys, torch.device(device), same, ids if same else None, ids % 7 == 3)


def reference(call: AttentionCall, tokens: list[Tokens], top_k: list[int]) -> tuple[Tensor, Tensor]:
    """Output and quantities from the whole map, in float64."""
    outputs, planes = [], []
    for sequence, facts, k in zip(call.sequences(), tokens, top_k, strict=True):
        options = {"mask": sequence.mask, "bias": sequence.bias, "scale": sequence.scale}
        result = dense(sequence.q.double(), sequence.k.double(), sequence.v.double(), **options).entry(0)
        outputs.append(result.output.transpose(0, 1))
        quantities = quantities_of_weights(result.weights, result.visible, facts, k)
        quantities[0] = result.logsumexp
        planes.append(quantities)
    return torch.cat(outputs), torch.cat(planes, dim=-1)


def make_call(
    lengths: list[tuple[int, int]],
    mask: Mask,
    bias: Bias | None = None,
    *,
    heads: int = 6,
    key_heads: int = 3,
    width: int = 16,
    sharpness: float = 2.0,
    group: Any = "decoder",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> AttentionCall:
    """Random queries, keys and values for so many queries and keys a sequence; rows are parts of wider ones, as in a model."""
    queries = Packing(tuple(asking for asking, _ in lengths))
    there = [seen for _, seen in lengths]
    q = torch.randn(queries.tokens, (heads + 2) * width)[:, : heads * width].unflatten(-1, (heads, width)) * sharpness
    k, v = (torch.randn(sum(there), key_heads * width + 5)[:, 5:].unflatten(-1, (key_heads, width)) for _ in "kv")
    keys, values = (tuple(tensor.to(device, dtype).split(there)) for tensor in (k, v))
    projection = OutputProjection(torch.randn(7, heads * width).to(device), heads)
    return AttentionCall(group, 0, q.to(device, dtype), queries, keys, values, projection, mask, bias, width**-0.5)


def assert_same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], tolerance: Any = TOLERANCE) -> None:
    torch.testing.assert_close(found[0].double(), expected[0], **(OUTPUT if tolerance is TOLERANCE else HALF_OUTPUT))
    for name, plane, wanted in zip(QUANTITIES, found[1].double(), expected[1], strict=True):
        torch.testing.assert_close(plane, wanted, **tolerance[name], msg=lambda message, name=name: f"{name}: {message}")
    assert (found[1][QUANTITIES.index("entropy")] >= 0).all()

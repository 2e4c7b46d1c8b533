"""Attentions that do with less than all pairs of tokens, as published, and how far they are from the one that doesn't."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from kqv.attention.linformer import Linformer
from kqv.attention.longformer import Longformer
from kqv.attention.performer import Performer
from kqv.attention.result import AttentionResult

Variant = Longformer | Linformer | Performer
VARIANTS: dict[str, type[Variant]] = {"longformer": Longformer, "linformer": Linformer, "performer": Performer}


@dataclass(frozen=True, eq=False)
class Comparison:
    """How far one attention is from another, a head."""

    output_error: Float[Tensor, "*B H"]
    """‖O − O'‖ / ‖O'‖ over all queries, O' being the reference's outputs: 0 where they are equal, 1 for no output at all."""
    weight_error: Float[Tensor, "*B H"]
    """½ Σ_j |p_ij − p'_ij|, the total variation, as a mean over the queries: 0 where they are equal, 1 where they have no key in
    common; beyond 1 only for weights that aren't shares of a whole, Linformer's."""


def compare(result: AttentionResult, reference: AttentionResult) -> Comparison:
    """The distance of a result from the reference; both have their weights."""
    assert result.weights is not None and reference.weights is not None
    error, size = (each.flatten(-2).norm(dim=-1) for each in (result.output - reference.output, reference.output))
    apart = (result.weights - reference.weights).abs().sum(-1) / 2
    return Comparison(error / size, apart.mean(-1))

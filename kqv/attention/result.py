"""What attention returns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class AttentionResult:
    """The outcome of one attention, for B batch entries (or none), H query heads, T queries, S keys and values of width E.

    What was not asked for, or what a faster form never makes, is None.
    """

    output: Float[Tensor, "*B H T E"]
    """weights · V, a head."""
    logsumexp: Float[Tensor, "*B H T"] | None = None
    """ln Σ_j exp(scaled_scores): −inf for a query that sees no key."""
    scores: Float[Tensor, "*B H T S"] | None = None
    """Q Kᵀ, before scale, bias and mask."""
    scaled_scores: Float[Tensor, "*B H T S"] | None = None
    """scores · scale + bias; −inf where masked."""
    weights: Float[Tensor, "*B H T S"] | None = None
    """softmax(scaled_scores); a row of zeros for a query that sees no key."""
    visible: Bool[Tensor, "*#B #H T S"] | None = None
    """The mask, kept with the weights; batch entries and heads that it doesn't tell apart share one map."""

    def entry(self, index: int) -> "AttentionResult":
        """The result of one batch entry, without the batch dimension."""
        return self._each(lambda tensor: tensor[index if tensor.shape[0] > 1 else 0])

    def of_heads(self, heads: Sequence[int]) -> "AttentionResult":
        """The chosen heads of a result without a batch dimension."""
        if list(heads) == list(range(self.output.shape[0])):
            return self
        return self._each(lambda tensor: tensor[list(heads)] if tensor.shape[0] > 1 else tensor)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "AttentionResult":
        changed: dict[str, Any] = {name: None if tensor is None else change(tensor) for name, tensor in vars(self).items()}
        return AttentionResult(**changed)

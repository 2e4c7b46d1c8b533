"""What an analysis finds."""

from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor

from kqv.attention.variants import Comparison
from kqv.config import Group
from kqv.show import Shown


@dataclass(frozen=True, eq=False)
class TopWeights:
    """The keys that each query looks at most, strongest first."""

    keys: Int[Tensor, "L H Q k"]
    """Indices into the whole sequence."""
    weights: Float[Tensor, "L H Q k"]


@dataclass(frozen=True, eq=False)
class GroupAnalysis:
    """One kind of attention of one sequence: L layers, H heads, Q queries, K keys, n tokens. None for what was not asked."""

    layers: tuple[int, ...]
    heads: tuple[int, ...]
    weights: Float[Tensor, "L H Q K"] | None = None
    top: TopWeights | None = None
    pooled: Float[Tensor, "L H p r"] | None = None
    """Maps max-pooled to at most `pool` tiles a side, the first of them one query or key longer where they don't divide evenly."""
    q: Float[Tensor, "L H n d"] | None = None
    k: Float[Tensor, "L H m d"] | None = None
    v: Float[Tensor, "L H m d"] | None = None
    scaled_scores: Float[Tensor, "L H Q K"] | None = None
    """−inf where masked."""
    head_outputs: Float[Tensor, "L H n d"] | None = None
    diagnostics: dict[str, Tensor] = field(default_factory=dict)
    """[L, H] by id, [L, H, Q] with `per_query`, [L, H, H] for similarity; NaN where undefined."""
    attention: str | None = None
    """What the layers attended by, where that was put in place of the model's own attention."""
    comparison: Comparison | None = None
    """Each head's distance from dense attention on the same queries, keys and values, [L, H]."""


@dataclass(frozen=True)
class Checks:
    """What the answer's attention was measured to obey, over all that was looked at."""

    row_sum_error: float
    """Largest |Σp − 1| of a query that sees a key."""
    forbidden_mass: float
    """Largest weight on a masked key."""


@dataclass(frozen=True, eq=False)
class Analysis(Shown):
    """All that was asked about one sequence of n tokens, without padding. In a notebook it shows itself."""

    tokens: tuple[str, ...] | None
    token_ids: tuple[int, ...] | None
    """None where embeddings were given."""
    attention: dict[Group, GroupAnalysis]
    target_tokens: tuple[str, ...] | None = None
    target_token_ids: tuple[int, ...] | None = None
    """What the decoder of an encoder–decoder read; None for other models."""
    hidden: Float[Tensor, "n W"] | None = None
    pooled: Float[Tensor, " W"] | None = None
    logits: Float[Tensor, "n V"] | None = None
    truncated: int = 0
    """Tokens that were cut off to fit the context."""
    checks: Checks | None = None
    """None where no attention was looked at."""

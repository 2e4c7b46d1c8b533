"""What one token looked at, in all layers at once: a step of decoding gives each layer's row, and they are measured together."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from kqv.analysis import GroupAnalysis, TopWeights
from kqv.attention.relations import Tokens
from kqv.attention.sight import Sight, look_along
from kqv.attention.statistics import quantities_of_weights
from kqv.config import Group
from kqv.decoding import Decoded, Plan
from kqv.diagnostics import QUERY_MEASURES, defined, query_measures
from kqv.watch import Watch, of_scope


def groups(plan: Plan, watch: Watch, decoded: Decoded, index: int) -> dict[Group, GroupAnalysis]:
    """What one text's watch shows of a step, by kind of attention; empty where nothing was asked. The numbers of `kqv.recorder`."""
    weights = decoded.weights[index]
    if weights is None:
        return {}
    return {"decoder": analyze_rows(plan, watch, weights, decoded.head_outputs[:, index])}


def analyze_rows(plan: Plan, watch: Watch, weights: Float[Tensor, "L H n"], head_outputs: Float[Tensor, "L H D"]) -> GroupAnalysis:
    """What a watch shows of the last of n tokens, a value a query of each diagnostic."""
    selection, scope, tokens = watch.selection, watch.scopes["decoder"], watch.tokens["decoder"]
    weights = of_scope(weights, scope)
    shown, top = weights[..., None, scope.keys], None
    if selection.weights == "top":
        strongest = shown.topk(min(selection.top_k, shown.shape[-1]), dim=-1)
        top = TopWeights(strongest.indices + scope.keys.start, strongest.values)
    figures: dict[str, Tensor] = {}
    if selection.measures:
        added = (of_scope(head_outputs, scope)[..., None, :] @ of_scope(plan.factors, scope).mT)[..., 0, :]
        figures = measure(
            weights, added.norm(dim=-1), [plan.config.windows[layer] for layer in scope.layers], tokens, selection.top_k
        )
    return GroupAnalysis(
        scope.layers,
        scope.heads,
        weights=shown if selection.weights == "full" else None,
        top=top,
        diagnostics={name: figures[name] for name in selection.measures},
    )


def measure(
    weights: Float[Tensor, "L H n"], output_norm: Float[Tensor, "L H"], windows: Sequence[int], tokens: Tokens, top_k: int
) -> dict[str, Float[Tensor, "L H 1"]]:
    """Every measure in layers that see so many keys, or with 0 all; NaN where it is undefined."""
    layers, heads, count = weights.shape
    reaches = [min(window or count, count) for window in windows]
    kinds = sorted({*reaches})  # layers that see as much share what is known of it, as if they were one query of a batch
    low = count - torch.tensor(kinds)
    which = torch.tensor([kinds.index(reach) for reach in reaches])
    sight = look_along(low, torch.full_like(low, count), [tokens] * len(kinds))
    sight = Sight(sight.visible_keys[:, which], sight.related[..., which])
    visible = (torch.arange(count) >= low[which, None]).repeat_interleave(heads, dim=0)[:, None]
    quantities = quantities_of_weights(weights.flatten(0, 1)[:, None], visible, tokens, top_k).unflatten(1, (layers, heads))
    figures = torch.stack(query_measures(quantities[..., 0].mT, sight.visible_keys, output_norm.mT))
    found = figures.masked_fill(~defined(sight), torch.nan).mT[..., None]
    return dict(zip(QUERY_MEASURES, found, strict=True))

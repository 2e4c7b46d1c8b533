"""The recorder attends for a forward pass and keeps what was asked of each sequence, reduced on the device layer by layer."""

from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kqv.analysis import Checks, GroupAnalysis, TopWeights
from kqv.attention.dense import dense, repeat_heads
from kqv.attention.fused import fused
from kqv.attention.packed import AttentionCall, SequenceAttention, join
from kqv.attention.result import AttentionResult
from kqv.attention.variants import Comparison, Variant, compare
from kqv.config import Group
from kqv.diagnostics import DIAGNOSTICS, Subject, Tokens, defined_for, diagnose, top_k
from kqv.selection import Scope, Selection
from kqv.tokenizer import Tokenizer

CHECKS = frozenset({"row_sum_error", "forbidden_mass"})
COMPARED = frozenset({"output_error", "weight_error"})


@dataclass(frozen=True, eq=False)
class Watch:
    """What to look at in one sequence, and the facts about its keys that the diagnostics need."""

    selection: Selection
    scopes: dict[Group, Scope]
    tokens: dict[Group, Tokens]

    def wants(self, group: Group, layer: int) -> bool:
        """Whether anything of this layer is reported."""
        return self.selection.looks_at_heads and layer in self.scopes[group].layers


def describe(
    lengths: dict[Group, tuple[int, int]],
    ids: dict[Group, tuple[int, ...] | None],
    device: torch.device,
    tokenizer: Tokenizer | None,
) -> dict[Group, Tokens]:
    """What the diagnostics know of the tokens of each kind of attention: `lengths` of queries and keys, `ids` of the keys."""
    described: dict[Group, Tokens] = {}
    for group, (queries, keys) in lengths.items():
        key_ids, special = ids[group], None
        if key_ids is not None and tokenizer is not None:
            special = torch.tensor([index in tokenizer.special_ids for index in key_ids], device=device)
        key_tensor = None if key_ids is None else torch.tensor(key_ids, device=device)
        described[group] = Tokens(queries, keys, device, group != "cross", key_tensor, special)
    return described


Kept = dict[str, Tensor]


class Recorder:
    """Attends for a forward pass and keeps what each sequence's `Watch` asks for; other layers run the fused kernel."""

    def __init__(self, watches: list[Watch]) -> None:
        self.watches = watches
        self.kept: list[dict[Group, dict[int, Kept]]] = [defaultdict(dict) for _ in watches]

    def attend(self, call: AttentionCall) -> Float[Tensor, "N H D"]:
        """The packed call, one sequence at a time, each by the cheapest form that shows what is wanted of it."""
        results = []
        for index, (watch, kept, sequence) in enumerate(zip(self.watches, self.kept, call.sequences(), strict=True)):
            watched, override = watch.wants(call.group, call.layer), watch.scopes[call.group].attention
            variant = call.variant(index, override)
            result = attend(sequence, variant, watched)
            if watched:
                kept[call.group][call.layer] = keep(watch, call, sequence, result, variant)
            if watched and watch.selection.compare and override is not None:
                kept[call.group][call.layer] |= keep_comparison(sequence, result, watch.scopes[call.group].heads)
            results.append(result)
        return join(call, results)

    def groups(self, sequence: int) -> dict[Group, GroupAnalysis]:
        """What was kept of one sequence, by kind of attention; empty where nothing was asked."""
        return {group: self._group(self.watches[sequence], group, layers) for group, layers in self.kept[sequence].items()}

    def _group(self, watch: Watch, group: Group, layers: dict[int, Kept]) -> GroupAnalysis:
        scope = watch.scopes[group]
        names = layers[scope.layers[0]].keys() - CHECKS
        stacked = {name: torch.stack([layers[layer][name] for layer in scope.layers]) for name in names}
        diagnostics = {name: stacked.pop(name) for name in watch.selection.measures}
        top = TopWeights(stacked.pop("top_keys"), stacked.pop("top_weights")) if "top_keys" in stacked else None
        compared = COMPARED & stacked.keys()
        comparison = Comparison(**{name: stacked.pop(name) for name in compared}) if compared else None
        kind = None if scope.attention is None else scope.attention.kind
        return GroupAnalysis(
            scope.layers, scope.heads, top=top, diagnostics=diagnostics, attention=kind, comparison=comparison, **stacked
        )

    def checks(self, sequence: int) -> Checks | None:
        """The worst that was measured anywhere in the sequence."""
        layers = [kept for layers in self.kept[sequence].values() for kept in layers.values()]
        return Checks(**{name: max(float(kept[name]) for kept in layers) for name in CHECKS}) if layers else None


def attend(sequence: SequenceAttention, variant: Variant | None, watched: bool) -> AttentionResult:
    """By the cheapest form that shows what is wanted: the output alone, or the weights too."""
    if variant is None:
        return sequence.by(dense if watched else fused)
    return sequence.by(partial(variant, weights=watched))


def keep(watch: Watch, call: AttentionCall, sequence: SequenceAttention, result: AttentionResult, variant: Variant | None) -> Kept:
    """What one sequence's selection asks of one layer, by name."""
    selection, scope = watch.selection, watch.scopes[call.group]
    chosen = result.entry(0).of_heads(scope.heads)
    weights, scaled_scores, visible = chosen.weights, chosen.scaled_scores, chosen.visible
    assert weights is not None and visible is not None  # whatever is looked at makes them
    kept: Kept = keep_weights(weights[:, scope.queries, scope.keys].contiguous(), selection, scope.keys.start)
    kept |= keep_tensors(selection, scope, sequence, result)
    if "scaled_scores" in selection.outputs:
        assert scaled_scores is not None  # a selection of what an attention lacks is refused
        kept["scaled_scores"] = scaled_scores[:, scope.queries, scope.keys].contiguous()
    if selection.measures:
        w_o = call.w_o.unflatten(-1, call.q.shape[1:])
        w_o = w_o if len(scope.heads) == call.q.shape[1] else w_o[:, list(scope.heads)]
        subject = Subject(weights, visible, chosen.output, watch.tokens[call.group], w_o, selection.top_k)
        kept |= defined_for(variant, keep_diagnostics(subject, selection, scope))
    return kept | measure_checks(weights, visible)


def keep_comparison(sequence: SequenceAttention, result: AttentionResult, heads: tuple[int, ...]) -> Kept:
    """The distance of some heads from dense attention on the same queries, keys and values."""
    return {**vars(compare(result.entry(0).of_heads(heads), sequence.by(dense).entry(0).of_heads(heads)))}


def keep_tensors(selection: Selection, scope: Scope, sequence: SequenceAttention, result: AttentionResult) -> Kept:
    """The heads' own tensors; key/value heads are repeated for each query head that they serve."""
    num_heads = sequence.q.shape[1]
    tensors = {
        "q": sequence.q,
        "k": repeat_heads(sequence.k, num_heads),
        "v": repeat_heads(sequence.v, num_heads),
        "head_outputs": result.output,
    }
    return {name: tensor[0, list(scope.heads)] for name, tensor in tensors.items() if name in selection.outputs}


def keep_weights(weights: Float[Tensor, "H Q K"], selection: Selection, first_key: int) -> Kept:
    """The cropped maps in the form that was asked for."""
    match selection.weights:
        case "full":
            return {"weights": weights}
        case "top":
            strongest, keys = top_k(weights, selection.top_k)
            return {"top_keys": keys + first_key, "top_weights": strongest}
        case "pooled":
            return {"pooled": max_pool(max_pool(weights, selection.pool, -2), selection.pool, -1)}
        case "none":
            return {}


def max_pool(maps: Float[Tensor, "H Q K"], side: int, dim: Literal[-2, -1]) -> Float[Tensor, "H p r"]:
    """The maximum of each of at most `side` tiles along one dimension; a mean would hide sinks."""
    tiles = maps.tensor_split(min(side, maps.shape[dim]), dim)
    return torch.stack([tile.amax(dim) for tile in tiles], dim)


def keep_diagnostics(subject: Subject, selection: Selection, scope: Scope) -> Kept:
    """The selected measures, over the whole sequence; a query's own values are cropped like the maps."""
    figures = diagnose(subject, selection.measures, per_query=selection.per_query)
    if not selection.per_query:
        return figures
    return {name: figure if DIAGNOSTICS[name].of_head else figure[:, scope.queries] for name, figure in figures.items()}


def measure_checks(weights: Float[Tensor, "H T S"], visible: Bool[Tensor, "#H T S"]) -> Kept:
    """How far the weights are from what weights must be."""
    sees = visible.any(-1)
    return {
        "row_sum_error": ((weights.sum(-1) - 1).abs() * sees).amax(),
        "forbidden_mass": (weights * ~visible).amax(),
    }

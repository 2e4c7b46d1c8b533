"""The recorder attends for a forward pass and keeps what was asked of each sequence, reduced on the device layer by layer."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from kqv.analysis import Checks, GroupAnalysis, TopWeights
from kqv.attention.call import AttentionCall, SequenceAttention
from kqv.attention.dense import dense, repeat_heads
from kqv.attention.foresight import Foreseen
from kqv.attention.maps import Maps, WholeMaps
from kqv.attention.masks import Table
from kqv.attention.packed import Observed, attend_packed, observe_packed, remake
from kqv.attention.relations import Tokens
from kqv.attention.result import AttentionResult
from kqv.attention.sight import Sight, join_sights, look, look_along
from kqv.attention.statistics import QUANTITIES, quantities_of_weights
from kqv.attention.variants import Comparison, Variant, compare
from kqv.config import Group
from kqv.diagnostics import DIAGNOSTICS, QUERY_MEASURES, Judged, defined_for, judge, measure_across, query_measures
from kqv.selection import Scope
from kqv.watch import Watch, of_scope

CHECKS = frozenset({"row_sum_error", "forbidden_mass"})
PER_HEAD_TENSORS = frozenset({"q", "k", "v", "head_outputs"})
COMPARED = frozenset({"output_error", "weight_error"})

Kept = dict[str, Tensor]


class Recorder:
    """Attends for a forward pass and keeps what each sequence's `Watch` asks for.

    Where a layer is looked at, its statistics come with its output, all sequences of the batch together; weights are made of them
    only where they are shown, and no more than is shown. Another attention than dense goes a sequence at a time.
    """

    def __init__(self, watches: list[Watch]) -> None:
        self.watches = watches
        self.kept: list[dict[Group, dict[int, Kept]]] = [defaultdict(dict) for _ in watches]
        """Of each sequence, layer by layer."""
        self._found: list[dict[Group, Kept]] = [{} for _ in watches]
        """Likewise, all layers together."""
        self.judged: dict[Hashable, Judged] = {}

    def __call__(self, call: AttentionCall) -> Float[Tensor, "N H D"]:
        """The packed call, by the cheapest form that shows what is wanted of it."""
        variants = [call.variant(index, watch.scopes[call.group].attention) for index, watch in enumerate(self.watches)]
        if not any(variants):
            return self._together(call, range(len(variants)))
        alone = (call.only(index) for index in range(len(variants)))
        return torch.cat(
            [
                self._together(one, [index]) if variant is None else self._apart(one, index, variant)
                for index, (one, variant) in enumerate(zip(alone, variants, strict=True))
            ]
        )

    def _together(self, call: AttentionCall, indices: Sequence[int]) -> Float[Tensor, "N H D"]:
        """Sequences that attend by the softmax over all keys that the mask leaves; `indices` are their places in the batch."""
        watches = [self.watches[index] for index in indices]
        if not any(watch.wants(call.group, call.layer) for watch in watches):
            return attend_packed(replace(call, own=None))
        tokens = [watch.tokens[call.group] for watch in watches]
        observed = observe_packed(call, tokens, [watch.selection.top_k for watch in watches])
        self._keep(Looked.at(call, self._judge(call, indices), observed), indices)
        return observed.output

    def _judge(self, call: AttentionCall, indices: Sequence[int]) -> Judged:
        """What is defined for the queries of these sequences; layers with the same mask share it."""
        judged = self.judged.get((call.sight, *indices))
        if judged is None:
            sight = look_at(call, [self.watches[index].tokens[call.group] for index in indices])
            judged = self.judged[call.sight, *indices] = judge(sight, call.queries.lengths)
        return judged

    def foresee(self, calls: Sequence[AttentionCall]) -> Foreseen | None:
        """As `Foresight`: where everybody wants little enough."""
        group, everyone = calls[0].group, range(len(self.watches))
        if not all(watch.is_simple(group) for watch in self.watches):
            return None
        looked = [any(watch.wants(group, call.layer) for watch in self.watches) for call in calls]
        if not any(looked):
            return Foreseen(layers=[None] * len(calls))
        judged = [self._judge(call, everyone) if wanted else None for call, wanted in zip(calls, looked, strict=True)]
        tokens, top_k = zip(*((watch.tokens[group], watch.selection.top_k) for watch in self.watches), strict=True)
        counted = [None if each is None else each.foreseen for each in judged]
        maps = [watch.show(group, calls[0].q.shape[1]) for watch in self.watches]
        return Foreseen(tokens, top_k, QUERY_MEASURES, counted, maps)

    def take(
        self, calls: Sequence[AttentionCall], wanted: Foreseen, sums: Float[Tensor, "L M H S"], worst: Float[Tensor, "L 2 S"]
    ) -> None:
        """As `Foresight`."""
        group, everyone = calls[0].group, range(len(self.watches))
        counts = torch.stack([self._judge(call, everyone).counts for call in calls])
        means = (sums / counts).permute(3, 1, 0, 2).contiguous()  # so that the figures of a measure lie side by side
        for index, (watch, shown) in enumerate(zip(self.watches, wanted.maps, strict=True)):
            scope = watch.scopes[group]
            if watch.selection.looks_at_heads and scope.layers:
                measures = of_scope(means[index].permute(1, 2, 0), scope).transpose(1, 2)
                errors, masses = worst[list(scope.layers), :, index].unbind(1)
                found: Kept = {"measures": measures, "row_sum_error": errors, "forbidden_mass": masses}
                self._found[index][group] = found | ({} if shown is None else {"weights": shown.named(scope.layers, scope.heads)})

    def _apart(self, call: AttentionCall, index: int, variant: Variant) -> Float[Tensor, "n H D"]:
        """One sequence that attends in another way, which shows its weights if it shows anything."""
        watch, sequence = self.watches[index], call.sequence(0)
        is_watched = watch.wants(call.group, call.layer)
        result = sequence.by(partial(variant, weights=is_watched)).entry(0)
        output = result.output.transpose(0, 1)
        if is_watched:
            weights, visible, tokens = result.weights, result.visible, watch.tokens[call.group]
            assert weights is not None and visible is not None
            judged = judge(look(Table(visible[None]), tokens, len(visible)), [len(output)])
            quantities = quantities_of_weights(weights, visible, tokens, watch.selection.top_k)
            self._keep(Looked.at(call, judged, Observed(output, quantities), result), [index])
            scope = watch.scopes[call.group]
            if watch.selection.compare and scope.attention is not None:
                distance = compare(result.of_heads(scope.heads), sequence.by(dense).entry(0).of_heads(scope.heads))
                self.kept[index][call.group][call.layer] |= vars(distance)
        return output.to(call.q.dtype)

    def _keep(self, looked: "Looked", indices: Sequence[int]) -> None:
        """What the watches of these sequences ask for."""
        group, layer = looked.call.group, looked.call.layer
        for place, index in enumerate(indices):
            watch = self.watches[index]
            if watch.wants(group, layer):
                self.kept[index][group][layer] = Part(watch, watch.scopes[group], looked, place).keep()

    def found(self, sequence: int) -> dict[Group, Kept]:
        """What was kept of one sequence, by kind of attention, all layers together; empty where nothing was asked."""
        for group, layers in self.kept[sequence].items():
            chosen = [layers[layer] for layer in self.watches[sequence].scopes[group].layers]
            self._found[sequence][group] = {name: torch.stack([kept[name] for kept in chosen]) for name in chosen[0]}
        self.kept[sequence].clear()
        return self._found[sequence]

    def groups(self, sequence: int) -> dict[Group, GroupAnalysis]:
        """The same as an analysis has it."""
        watch = self.watches[sequence]
        return {group: analysis_of(watch, watch.scopes[group], kept) for group, kept in self.found(sequence).items()}

    def checks(self, sequence: int) -> Checks | None:
        """The worst that was measured anywhere in the sequence."""
        found = self.found(sequence).values()
        return Checks(**{name: max(float(kept[name].amax()) for kept in found) for name in CHECKS}) if found else None


def analysis_of(watch: Watch, scope: Scope, kept: Kept) -> GroupAnalysis:
    """What was kept of a kind of attention, by the names of its analysis."""
    kept = {name: tensor for name, tensor in kept.items() if name not in CHECKS}
    figures = dict(zip(QUERY_MEASURES, kept.pop("measures").unbind(1), strict=True))
    diagnostics = {name: figures[name] if name in figures else kept.pop(name) for name in watch.selection.measures}
    top = TopWeights(kept.pop("top_keys"), kept.pop("top_weights")) if "top_keys" in kept else None
    compared = COMPARED & kept.keys()
    return GroupAnalysis(
        scope.layers,
        scope.heads,
        top=top,
        diagnostics=defined_for(scope.attention, diagnostics),
        attention=None if scope.attention is None else scope.attention.kind,
        comparison=Comparison(**{name: kept.pop(name) for name in compared}) if compared else None,
        **kept,
    )


def look_at(call: AttentionCall, tokens: list[Tokens]) -> Sight:
    """What the queries of a call may see."""
    limits = call.limits()
    if limits is not None:
        return look_along(*limits, tokens)
    parts = zip(call.sequences(), tokens, strict=True)
    return join_sights([look(sequence.mask, known, call.q.shape[1]) for sequence, known in parts])


class Looked(NamedTuple):
    """All that is known of a layer's attention, of S sequences together."""

    call: AttentionCall
    judged: Judged
    observed: Observed
    measures: list[Float[Tensor, "H N"]]
    """In the order of `QUERY_MEASURES`, defined or not."""
    means: tuple[Float[Tensor, "M H"], ...]
    """Of each sequence."""
    checks: list[dict[str, Tensor]]
    """Of each sequence: how far the weights are from what weights must be, as they were multiplied with the values."""
    whole: AttentionResult | None
    """The maps of a sequence alone, where they are there already."""

    @classmethod
    def at(cls, call: AttentionCall, judged: Judged, observed: Observed, whole: AttentionResult | None = None) -> "Looked":
        """What there is to tell of a layer."""
        lengths = call.projection.lengths(observed.output)
        measures = query_measures(observed.quantities, judged.sight.visible_keys, lengths)
        means = judged.means(measures).unbind(-1)
        return cls(call, judged, observed, measures, means, checks(observed.quantities, judged), whole)


def checks(quantities: Float[Tensor, "P H N"], judged: Judged) -> list[dict[str, Tensor]]:
    """The worst `row_sum_error` and `forbidden_mass` of each sequence."""
    row_sum, forbidden = (quantities[QUANTITIES.index(name)] for name in ("row_sum", "forbidden"))
    error = ((row_sum - 1).abs_() * judged.sight.sees).amax(0)
    parts = zip(error.split(judged.lengths), forbidden.amax(0).split(judged.lengths), strict=True)
    return [{"row_sum_error": worst.amax(), "forbidden_mass": mass.amax()} for worst, mass in parts]


@dataclass(frozen=True, eq=False)
class Part:
    """One sequence's part of a layer, the `place`-th of those that were looked at together, and what is made of it."""

    watch: Watch
    scope: Scope
    looked: Looked
    place: int

    @property
    def rows(self) -> slice:
        """Its queries among those of all."""
        packing = self.looked.call.queries
        start = packing.offsets[self.place]
        return slice(start, start + packing.lengths[self.place])

    @cached_property
    def sequence(self) -> SequenceAttention:
        """What attended."""
        return self.looked.call.sequence(self.place)

    @cached_property
    def maps(self) -> Maps:
        """Its scores and weights, kept or made again."""
        if self.looked.whole is not None:
            return WholeMaps(self.looked.whole)
        logsumexp = self.looked.observed.quantities[QUANTITIES.index("logsumexp")][:, self.rows]
        return remake(self.looked.call, self.place, logsumexp)

    def keep(self) -> Kept:
        """What the sequence's selection asks for, by name."""
        return {"measures": self.measures()} | self.looked.checks[self.place] | self.tensors() | self.weights() | self.comparisons()

    def measures(self) -> Float[Tensor, "M h *Q"]:
        """Each query's, NaN where undefined, or the means."""
        heads = list(self.scope.heads)
        if not self.watch.selection.per_query:
            return self.looked.means[self.place][:, heads]
        values = torch.stack([measure[:, self.rows] for measure in self.looked.measures])
        return values.masked_fill(~self.looked.judged.defined[..., self.rows], torch.nan)[:, heads, self.scope.queries]

    def tensors(self) -> Kept:
        """The heads' own tensors; key/value heads are repeated for each query head that they serve."""
        wanted = PER_HEAD_TENSORS & {*self.watch.selection.outputs}
        if not wanted:
            return {}
        output, sequence = self.looked.observed.output[self.rows].transpose(0, 1), self.sequence
        tensors = {"q": sequence.q, "k": sequence.k, "v": sequence.v, "head_outputs": output[None]}
        return {name: repeat_heads(tensors[name], len(output))[0, list(self.scope.heads)] for name in wanted}

    def weights(self) -> Kept:
        """The cropped maps in the form that was asked for."""
        selection, crop = self.watch.selection, (self.scope.heads, self.scope.queries, self.scope.keys)
        scores = {"scaled_scores": self.maps.scores(*crop)} if "scaled_scores" in selection.outputs else {}
        match selection.weights:
            case "full":
                return scores | {"weights": self.maps.weights(*crop)}
            case "top":
                return scores | self.top()
            case "pooled":
                return scores | {"pooled": self.pooled()}
            case "none":
                return scores

    def top(self) -> Kept:
        """The strongest keys of each query, and their weights."""
        scope, k = self.scope, min(self.watch.selection.top_k, self.scope.map_size[1])
        found = [weights.topk(k, dim=-1) for _, weights in self.maps.blocks(scope.heads, scope.queries, scope.keys)]
        keys = torch.cat([strongest.indices for strongest in found], dim=1) + scope.keys.start
        return {"top_keys": keys, "top_weights": torch.cat([strongest.values for strongest in found], dim=1)}

    def pooled(self) -> Float[Tensor, "h p r"]:
        """The maximum of each tile; a mean would hide sinks."""
        scope, sides = self.scope, [min(self.watch.selection.pool, size) for size in self.scope.map_size]
        rows = []
        for tile in torch.arange(scope.queries.start, scope.queries.stop).tensor_split(sides[0]):
            blocks = self.maps.blocks(scope.heads, slice(int(tile[0]), int(tile[-1]) + 1), scope.keys)
            rows.append(torch.stack([weights.amax(1) for _, weights in blocks]).amax(0))
        columns = torch.stack(rows, dim=1).tensor_split(sides[1], dim=-1)
        return torch.stack([column.amax(-1) for column in columns], dim=-1)

    def comparisons(self) -> Kept:
        """The measures that compare queries or heads, over the whole sequence."""
        wanted = [name for name in self.watch.selection.measures if DIAGNOSTICS[name].of_head]
        if not wanted:
            return {}
        heads, whole = list(self.scope.heads), [slice(0, length) for length in self.scope.lengths]
        sees = self.looked.judged.sight.sees[:, self.rows]
        sees = sees if len(sees) == 1 else sees[heads]
        return {name: measure_across(name, self.maps.blocks(heads, *whole), sees) for name in wanted}

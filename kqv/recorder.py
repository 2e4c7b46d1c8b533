"""The recorder attends for a forward pass and keeps what was asked of each sequence, reduced on the device layer by layer."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import one_hot

from kqv.analysis import Checks, GroupAnalysis, TopWeights
from kqv.attention.call import AttentionCall, SequenceAttention
from kqv.attention.dense import dense, repeat_heads
from kqv.attention.maps import Maps, RemadeMaps, WholeMaps
from kqv.attention.masks import Table
from kqv.attention.packed import attend_packed, observe_packed
from kqv.attention.relations import Tokens
from kqv.attention.sight import Sight, join_sights, look, look_along
from kqv.attention.statistics import QUANTITIES, quantities_of_weights
from kqv.attention.variants import Comparison, Variant, compare
from kqv.config import Group
from kqv.diagnostics import DIAGNOSTICS, QUERY_MEASURES, defined, defined_for, measure_across, query_measures
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
        key_tensor = None if key_ids is None else torch.tensor(key_ids, device=device)
        if key_tensor is not None and tokenizer is not None:
            special = torch.isin(key_tensor, torch.tensor(sorted(tokenizer.special_ids), dtype=torch.long, device=device))
        described[group] = Tokens(queries, keys, device, group != "cross", key_tensor, special)
    return described


Kept = dict[str, Tensor]


class Judged(NamedTuple):
    """What a kind of attention lets each of N packed queries see, and so which of M measures are defined for it, in S sequences."""

    sight: Sight
    defined: Bool[Tensor, " M #H N"]
    sequences: Float[Tensor, "N S"]
    """1 where a query is of the sequence."""
    counts: Float[Tensor, " M #H S"]
    """Queries that a mean is over."""

    def means(self, values: Float[Tensor, "M H N"]) -> Float[Tensor, "M H S"]:
        """Of each sequence's queries; NaN where a measure is defined for none."""
        return ((values * self.defined) @ self.sequences.to(values.dtype)) / self.counts


def judge(sight: Sight, lengths: Sequence[int]) -> Judged:
    """Which measures are defined for the queries of sequences of these lengths."""
    where = defined(sight)
    owner = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    sequences = one_hot(owner, len(lengths)).float().to(where.device)
    return Judged(sight, where, sequences, where.float() @ sequences)


class Recorder:
    """Attends for a forward pass and keeps what each sequence's `Watch` asks for.

    Where a layer is looked at, its statistics come with its output, all sequences of the batch together; weights are made of them
    only where they are shown, and no more than is shown. Another attention than dense goes a sequence at a time.
    """

    def __init__(self, watches: list[Watch]) -> None:
        self.watches = watches
        self.kept: list[dict[Group, dict[int, Kept]]] = [defaultdict(dict) for _ in watches]
        self.judged: dict[Hashable, Judged] = {}

    def attend(self, call: AttentionCall) -> Float[Tensor, "N H D"]:
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
        judged = self.judged.get((call.sight, *indices))
        if judged is None:  # layers with the same mask share it
            judged = self.judged[call.sight, *indices] = judge(look_at(call, tokens), call.queries.lengths)
        values = query_measures(observed.quantities, judged.sight.visible_keys, call.projection.lengths(observed.output))
        split = partial(torch.split, split_size_or_sections=list(call.queries.lengths), dim=-1)
        planes = map(split, (observed.quantities, values, judged.defined, judged.sight.sees))
        means = judged.means(values).unbind(-1)
        outputs = call.queries.split(observed.output)
        for index, watch, sequence, output, mean, *rows in zip(
            indices, watches, call.sequences(), outputs, means, *planes, strict=True
        ):
            if watch.wants(call.group, call.layer):
                quantities, measures, where, sees = rows
                maps = RemadeMaps(sequence, quantities[QUANTITIES.index("logsumexp")])
                part = Part(watch, watch.scopes[call.group], sequence, maps, output.transpose(0, 1), quantities, sees)
                self.kept[index][call.group][call.layer] = part.keep(measures, where, mean)
        return observed.output

    def _apart(self, call: AttentionCall, index: int, variant: Variant) -> Float[Tensor, "n H D"]:
        """One sequence that attends in another way, which shows its weights if it shows anything."""
        watch, [sequence] = self.watches[index], call.sequences()
        is_watched = watch.wants(call.group, call.layer)
        result = sequence.by(partial(variant, weights=is_watched)).entry(0)
        output = result.output.transpose(0, 1).to(call.q.dtype)
        if is_watched:
            weights, visible, tokens = result.weights, result.visible, watch.tokens[call.group]
            assert weights is not None and visible is not None
            quantities = quantities_of_weights(weights, visible, tokens, watch.selection.top_k)
            judged = judge(look(Table(visible[None]), tokens, len(visible)), [len(output)])
            values = query_measures(quantities, judged.sight.visible_keys, call.projection.lengths(result.output.transpose(0, 1)))
            scope = watch.scopes[call.group]
            part = Part(watch, scope, sequence, WholeMaps(result), result.output, quantities, judged.sight.sees)
            kept = self.kept[index][call.group][call.layer] = part.keep(values, judged.defined, judged.means(values)[..., 0])
            if watch.selection.compare and scope.attention is not None:
                kept |= vars(compare(result.of_heads(scope.heads), sequence.by(dense).entry(0).of_heads(scope.heads)))
        return output

    def groups(self, sequence: int) -> dict[Group, GroupAnalysis]:
        """What was kept of one sequence, by kind of attention; empty where nothing was asked."""
        return {group: self._group(self.watches[sequence], group, layers) for group, layers in self.kept[sequence].items()}

    def _group(self, watch: Watch, group: Group, layers: dict[int, Kept]) -> GroupAnalysis:
        scope = watch.scopes[group]
        names = layers[scope.layers[0]].keys() - CHECKS
        stacked = {name: torch.stack([layers[layer][name] for layer in scope.layers]) for name in names}
        figures = dict(zip(QUERY_MEASURES, stacked.pop("measures").unbind(1), strict=True))
        diagnostics = {name: figures[name] if name in figures else stacked.pop(name) for name in watch.selection.measures}
        top = TopWeights(stacked.pop("top_keys"), stacked.pop("top_weights")) if "top_keys" in stacked else None
        compared = COMPARED & stacked.keys()
        return GroupAnalysis(
            scope.layers,
            scope.heads,
            top=top,
            diagnostics=defined_for(scope.attention, diagnostics),
            attention=None if scope.attention is None else scope.attention.kind,
            comparison=Comparison(**{name: stacked.pop(name) for name in compared}) if compared else None,
            **stacked,
        )

    def checks(self, sequence: int) -> Checks | None:
        """The worst that was measured anywhere in the sequence."""
        layers = [kept for layers in self.kept[sequence].values() for kept in layers.values()]
        return Checks(**{name: max(float(kept[name]) for kept in layers) for name in CHECKS}) if layers else None


def look_at(call: AttentionCall, tokens: list[Tokens]) -> Sight:
    """What the queries of a call may see."""
    limits = call.limits()
    if limits is not None:
        return look_along(*limits, tokens)
    parts = zip(call.sequences(), tokens, strict=True)
    return join_sights([look(sequence.mask, known, call.q.shape[1]) for sequence, known in parts])


@dataclass(frozen=True, eq=False)
class Part:
    """One sequence's part of a layer, and what is made of it."""

    watch: Watch
    scope: Scope
    sequence: SequenceAttention
    maps: Maps
    output: Float[Tensor, "H n D"]
    quantities: Float[Tensor, "P H n"]
    sees: Bool[Tensor, "#H n"]

    def keep(self, measures: Float[Tensor, "M H n"], where: Bool[Tensor, " M #H n"], means: Float[Tensor, "M H"]) -> Kept:
        """What the sequence's selection asks for, by name: of the measures, each query's or the mean, and all that `Part` makes."""
        heads, queries = list(self.scope.heads), self.scope.queries
        each = self.watch.selection.per_query
        shown = measures.masked_fill(~where, torch.nan)[:, heads, queries] if each else means[:, heads]
        return {"measures": shown} | self.checks() | self.tensors() | self.weights() | self.comparisons()

    def checks(self) -> Kept:
        """How far the weights are from what weights must be, as they were multiplied with the values."""
        row_sum, forbidden = (self.quantities[QUANTITIES.index(name)] for name in ("row_sum", "forbidden"))
        return {"row_sum_error": ((row_sum - 1).abs() * self.sees).amax(), "forbidden_mass": forbidden.amax()}

    def tensors(self) -> Kept:
        """The heads' own tensors; key/value heads are repeated for each query head that they serve."""
        tensors = {"q": self.sequence.q, "k": self.sequence.k, "v": self.sequence.v, "head_outputs": self.output[None]}
        wanted = tensors.keys() & {*self.watch.selection.outputs}
        return {name: repeat_heads(tensors[name], len(self.output))[0, list(self.scope.heads)] for name in wanted}

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
        heads, whole = list(self.scope.heads), [slice(0, length) for length in self.scope.lengths]
        sees = self.sees if len(self.sees) == 1 else self.sees[heads]
        wanted = [name for name in self.watch.selection.measures if DIAGNOSTICS[name].of_head]
        return {name: measure_across(name, self.maps.blocks(heads, *whole), sees) for name in wanted}

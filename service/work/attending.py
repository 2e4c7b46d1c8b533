"""Attention on the caller's own tensors, as work for the device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kqv import AttentionResult, InputError, Longformer, Projections, attend, compare, draw_projections, multi_head
from kqv.attention.longformer import GlobalHeads
from kqv.attention.multi_head import join_heads, split_heads
from kqv.attention.relations import Tokens
from kqv.attention.variants import Variant
from kqv.diagnostics import DEFAULT_DIAGNOSTICS, Subject, defined_for, diagnose
from service.wire.requests import Step
from service.wire.variants import GLOBAL_PROJECTIONS

PROJECTIONS = ("w_q", "w_k", "w_v", "w_o")
MAPS: frozenset[Step] = frozenset({"scores", "scaled_scores", "weights", "diagnostics"})
"""The steps of all pairs of tokens, or made of them."""
Tensors = Mapping[str, Tensor]
"""A request's tensors by their fields: q, k and v, or x and what belongs to it; bias; the mask where it is spelled out."""


@dataclass(frozen=True, eq=False)
class Steps:
    """What attention did: H heads, n queries, m keys."""

    q: Tensor
    k: Tensor
    v: Tensor
    attention: AttentionResult
    output: Tensor
    w_o: Tensor | None
    """[d, H, d_v], for the measure of what a head adds."""
    same: bool
    """Whether queries and keys are the same tokens."""
    variant: Variant | None
    """What attended; None for dense."""

    def show(self, include: frozenset[Step]) -> dict[str, Any]:
        """The chosen steps, in the formula's order."""
        attention = self.attention
        steps: dict[Step, Tensor | None] = {
            "q": self.q,
            "k": self.k,
            "v": self.v,
            "scores": attention.scores,
            "scaled_scores": attention.scaled_scores,
            "weights": attention.weights,
            "head_outputs": attention.output,
            "output": self.output,
        }
        shown: dict[str, Any] = {name: step for name, step in steps.items() if name in include and step is not None}
        if "diagnostics" in include:
            shown["diagnostics"] = self.diagnostics()
        return shown

    def diagnostics(self) -> dict[str, Tensor]:
        """All the measures; those that compare tokens are undefined, for there are no tokens."""
        weights, visible = self.attention.weights, self.attention.visible
        assert weights is not None and visible is not None  # they are made where diagnostics are included
        tokens = Tokens(weights.shape[1], weights.shape[2], weights.device, same=self.same)
        figures = diagnose(Subject(weights, visible, self.attention.output, tokens, self.w_o), DEFAULT_DIAGNOSTICS)
        return defined_for(self.variant, figures)


@dataclass(frozen=True, eq=False)
class Attention:
    """A request that has been read."""

    tensors: Tensors
    options: dict[str, Any]
    """What `attend` takes beside tensors."""
    num_heads: int
    seed: int | None
    include: frozenset[Step]
    variant: Variant | None = None
    """What attends; None for dense."""
    compare: bool = False

    @property
    def needs_maps(self) -> bool:
        """Whether anything of all pairs of tokens is shown, or has to be made."""
        return self.variant is None or self.compare or not self.include.isdisjoint(MAPS)

    @torch.inference_mode()
    def run(self, device: torch.device) -> dict[str, Any]:
        """The fields of the answer. Raises `InputError` for tensors that don't fit each other."""
        given = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        options = self.options | {name: given[name] for name in ("mask", "bias") if name in given}
        chosen = options | {"attention": self.variant, "weights": self.needs_maps}
        steps = of_heads(given, chosen) if "q" in given else of_vectors(given, self.num_heads, self.seed, chosen)
        shown = steps.show(self.include)
        if self.compare:
            shown["comparison"] = vars(compare(steps.attention, attend(steps.q, steps.k, steps.v, **options)))
        return shown


@dataclass(frozen=True, eq=False)
class Attend:
    """Work for the batcher: the answers' fields. Equal to no other, for nothing would be gained by sharing a batch."""

    device: torch.device

    @property
    def lane(self) -> str:
        """All attention on callers' tensors."""
        return "attend"

    def __call__(self, jobs: Sequence[Attention]) -> list[dict[str, Any]]:
        return [job.run(self.device) for job in jobs]


def of_heads(given: Tensors, options: Mapping[str, Any]) -> Steps:
    """Attention of `q`, `k` and `v`; where they have as many tokens, those are taken to be the same."""
    result = attend(given["q"], given["k"], given["v"], **options)
    q, k, v = (given[name] if given[name].ndim == 3 else given[name][None] for name in ("q", "k", "v"))
    same = q.shape[1] == k.shape[1]
    return Steps(q, k, v, result, join_heads(result.output), None, same, options["attention"])


def of_vectors(given: Tensors, num_heads: int, seed: int | None, options: Mapping[str, Any]) -> Steps:
    """Multi-head attention of `x` to itself or to `context`, with the projections given or drawn."""
    x, context = given["x"], given.get("context")
    if seed is None:
        projections = Projections(*(given[name] for name in PROJECTIONS))
    else:
        drawn = draw_projections(x.shape[1], num_heads, seed, None if context is None else context.shape[1])
        projections = Projections(**{name: matrix.to(x.device) for name, matrix in vars(drawn).items()})
    variant = with_global_heads(options["attention"], given, num_heads)
    result = multi_head(x, projections, num_heads, context=context, **(dict(options) | {"attention": variant}))
    w_o = projections.w_o.unflatten(0, (num_heads, -1)).permute(2, 0, 1)
    return Steps(result.q, result.k, result.v, result.attention, result.output, w_o, context is None, variant)


def with_global_heads(variant: Variant | None, given: Tensors, num_heads: int) -> Variant | None:
    """Longformer with the global tokens' queries, keys and values, where there are projections of `x` to them."""
    if not isinstance(variant, Longformer) or "w_q_global" not in given:
        return variant
    for name in GLOBAL_PROJECTIONS:
        if given[name].shape[0] != given["x"].shape[1] or given[name].shape[1] % num_heads:
            message = f"{name} is [{given['x'].shape[1]}, a multiple of {num_heads} heads], not {list(given[name].shape)}"
            raise InputError(message, ("attention", name))
    heads = GlobalHeads(*(split_heads(given["x"] @ given[name], num_heads) for name in GLOBAL_PROJECTIONS))
    return replace(variant, global_heads=heads)


@dataclass(frozen=True)
class Sizes:
    """How large it all will be; widths are those of all heads together."""

    heads: int
    queries: int
    keys: int
    d_keys: int
    d_values: int
    d_model: int
    drawn: int
    """Numbers in the projections that are drawn."""
    maps: bool = True
    """Whether the maps are made."""
    variant: int = 0
    """What another attention than dense holds beside them."""

    @property
    def map(self) -> int:
        """Numbers in one step's maps."""
        return self.heads * self.queries * self.keys

    @property
    def held(self) -> int:
        """Numbers in memory at once, whatever is shown of them."""
        return 3 * self.map * self.maps + self.drawn + self.variant

    def shown(self, include: frozenset[Step]) -> int:
        """Numbers in the answer."""
        numbers: dict[Step, int] = {
            "q": self.queries * self.d_keys,
            "k": self.keys * self.d_keys,
            "v": self.keys * self.d_values,
            "scores": self.map,
            "scaled_scores": self.map,
            "weights": self.map,
            "head_outputs": self.queries * self.d_values,
            "output": self.queries * self.d_model,
            "diagnostics": self.heads * len(DEFAULT_DIAGNOSTICS),
        }
        return sum(numbers[name] for name in include)


def sizes_of(attention: Attention) -> Sizes:
    """Told from the tensors, whether or not they fit each other."""
    sizes = sizes_of_tensors(attention)
    if attention.variant is None:
        return sizes
    shape = (sizes.heads, sizes.queries, sizes.keys, max(sizes.d_keys // sizes.heads, 1))
    return replace(sizes, maps=attention.needs_maps, variant=attention.variant.held(shape))


def sizes_of_tensors(attention: Attention) -> Sizes:
    """Told from the tensors, whether or not they fit each other."""
    given = attention.tensors
    if "q" in given:
        q, k, v = given["q"], given["k"], given["v"]
        heads = q.shape[0] if q.ndim == 3 else 1
        d_values = heads * v.shape[-1]
        return Sizes(heads, q.shape[-2], k.shape[-2], heads * q.shape[-1], d_values, d_values, drawn=0)
    queries, d_model = given["x"].shape
    keys, d_context = given.get("context", given["x"]).shape
    if attention.seed is not None:
        heads = min(attention.num_heads, d_model)  # more are refused
        return Sizes(heads, queries, keys, d_model, d_model, d_model, drawn=2 * d_model * (d_model + d_context))
    d_keys, d_values = given["w_q"].shape[1], given["w_v"].shape[1]
    return Sizes(min(attention.num_heads, d_keys), queries, keys, d_keys, d_values, given["w_o"].shape[1], drawn=0)

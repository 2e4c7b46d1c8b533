"""Performer's attention (Choromanski et al., 2021, FAVOR+): the softmax by positive orthogonal random features, in linear time.

exp(q·k) is the mean of φ(q)·φ(k) over features φ(x) = exp(w·x − |x|²/2) with w from N(0, I), so a sum over keys of exp(q·k)·v is a
product of φ(q) with sums that don't depend on the query, and that go on from key to key.

Powers of e overflow, so sums are kept relative to the largest of each feature, and a query's features relative to the largest of
their products with those. Both cancel where the sums are divided; both are of one row of the batch and one head.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from kqv.attention.biases import Bias
from kqv.attention.dense import repeat_heads
from kqv.attention.drawing import generator, orthogonal
from kqv.attention.masks import Causal, Everything, Mask, visible
from kqv.attention.result import AttentionResult
from kqv.errors import InputError, UnsupportedError

CHUNK = 128
"""Tokens whose features are made at once."""
FADED = 60.0
"""How far below the peak, as a power of e, a query's largest product may lie: float32 keeps its precision down to e⁻⁸⁷."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Performer:
    """Attention by positive random features, which are given, or drawn by a seed.

    Called like any attention function, with `weights` whether the maps are wanted: φ(q)·φ(k), divided by its sum over the keys.
    Raises `InputError`, located within `attention`.
    """

    kind: ClassVar[Literal["performer"]] = "performer"
    distributes: ClassVar[bool] = True
    """Whether the weights of a query are shares of a whole."""
    scores_pairs: ClassVar[bool] = False
    """Whether it has scores of pairs of tokens."""
    crosses: ClassVar[bool] = True
    """Whether it can be the attention of one sequence to another."""

    features: int | None = None
    """How many; d·ln d for heads of width d if neither this nor `projection` says so."""
    projection: Float[Tensor, "..."] | None = None
    """The features' directions w, [features, width of a head]."""
    seed: int = 0
    layer: int = 0
    """Where in a model; each layer draws its own."""

    def __post_init__(self) -> None:
        if self.features is not None and self.features < 1:
            message = f"{self.features} features see nothing; take 1 or more, or leave them out for d·ln d, d being a head's width"
            raise InputError(message, ("attention", "features"))
        if self.projection is None:
            return
        if self.features is not None:
            raise InputError("the projection has as many features as rows; leave features out", ("attention", "features"))
        if self.projection.ndim != 2 or 0 in self.projection.shape or not self.projection.isfinite().all():
            message = f"projection is finite numbers [features, width of a head], not {list(self.projection.shape)}"
            raise InputError(message, ("attention", "projection"))

    def at(self, layer: int) -> "Performer":
        """As it is in one layer of a model: each draws its own features."""
        return replace(self, layer=layer)

    def held(self, shape: tuple[int, int, int, int]) -> int:
        """Numbers in memory at once beside queries, keys, values and maps, those for making maps included."""
        heads, queries, keys, width = shape
        return self.count(width) * (heads * (min(CHUNK, queries) + keys + width) + width)

    def check(self, shape: tuple[int, int, int, int], mask: Mask, biased: bool) -> None:
        """Raise `InputError` where this attention can't serve a call of such heads, queries, keys and width."""
        if not isinstance(mask, Everything | Causal) or (isinstance(mask, Causal) and shape[1] != shape[2]):
            message = "performer never sees pairs of tokens: its mask is none, or causal with as many queries as keys"
            raise UnsupportedError(f"{message}; take longformer, which takes any mask", ("mask",))
        if biased:
            message = "performer never sees pairs of tokens, so nothing can be added to their scores"
            raise UnsupportedError(f"{message}; leave the bias out, or take longformer", ("bias",))
        if self.projection is not None and self.projection.shape[1] != shape[3]:
            message = f"projection is {list(self.projection.shape)}; its rows are as wide as a head, which is {shape[3]}"
            raise InputError(message, ("attention", "projection"))

    def __call__(
        self,
        q: Float[Tensor, "B H T D"],
        k: Float[Tensor, "B G S D"],
        v: Float[Tensor, "B G S E"],
        *,
        mask: Mask = Everything(),
        bias: Bias | None = None,
        scale: float | None = None,
        weights: bool = False,
    ) -> AttentionResult:
        """The output and an estimate of the log-sum-exp, and with `weights` the maps; half precision is computed in float32."""
        self.check((*q.shape[1:3], *k.shape[2:]), mask, bias is not None)
        dtype, heads = torch.promote_types(q.dtype, torch.float32), q.shape[1]
        scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
        w = self.directions(q.shape[-1]).to(q.device, dtype)
        q = q.to(dtype) * math.copysign(math.sqrt(abs(scale)), scale)
        k = repeat_heads(k, heads).to(dtype) * math.sqrt(abs(scale))
        v = repeat_heads(v, heads).to(dtype)
        look_over = look_back if isinstance(mask, Causal) else look_at_all
        log_k = log_features(k, w) if weights else None
        parts = [rows.shares(log_k) for rows in look_over(q, k, pad(v, (0, 1), value=1.0), w)]
        mass = torch.cat([log_mass for _, log_mass, _ in parts], -2).squeeze(-1)
        result = AttentionResult(
            output=torch.cat([output for output, _, _ in parts], -2),
            logsumexp=mass - q.square().sum(-1) / 2 - math.log(len(w)),
        )
        if log_k is None:
            return result
        seen = visible(mask, (1, 1, q.shape[2], k.shape[2]), q.device)
        shares = torch.cat([shares for _, _, shares in parts if shares is not None], -2)
        # What a query doesn't see may lie above its peak, and overflow.
        return replace(result, weights=shares.masked_fill(~seen, 0.0), visible=seen)

    def directions(self, width: int) -> Float[Tensor, "F D"]:
        """The features' directions, given or drawn."""
        if self.projection is not None:
            return self.projection
        return orthogonal(self.count(width), width, generator(self.seed, self.layer))

    def count(self, width: int) -> int:
        """How many features there are for heads of a width."""
        if self.projection is not None:
            return len(self.projection)
        return self.features or max(1, round(width * math.log(width)))


class Sums(NamedTuple):
    """Σ_j φ(k_j)·[v_j, 1] over some keys, each feature's relative to e^peak, its largest."""

    peak: Float[Tensor, "B H 1 F"]
    total: Float[Tensor, "B H F E"]

    def after(self, log_keys: Float[Tensor, "B H s F"], v: Float[Tensor, "B H s E"]) -> "Sums":
        """With more keys."""
        raised = self.raised(torch.maximum(self.peak, log_keys.amax(-2, keepdim=True)))
        return Sums(raised.peak, raised.total + (log_keys - raised.peak).exp().mT @ v)

    def raised(self, peak: Float[Tensor, "B H 1 F"]) -> "Sums":
        """The same, relative to a larger peak."""
        return Sums(peak, self.total * (self.peak - peak).exp().mT)


def nothing(k: Float[Tensor, "B H S D"], v: Float[Tensor, "B H S E"], w: Float[Tensor, "F D"]) -> Sums:
    """The sums over no keys."""
    return Sums(k.new_full((*k.shape[:2], 1, len(w)), -torch.inf), v.new_zeros(*v.shape[:2], len(w), v.shape[-1]))


class Rows(NamedTuple):
    """Some queries' share of the result: Σ_j φ(q_i)·φ(k_j)·[v_j, 1], relative to e^peak."""

    features: Float[Tensor, "B H t F"]
    """φ(q), relative to the peaks of the query's products."""
    key_peak: Float[Tensor, "B H 1 F"]
    sums: Float[Tensor, "B H t E"]
    peak: Float[Tensor, "B H t 1"]

    def shares(self, log_k: Float[Tensor, "B H S F"] | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Output, ln of the sum, and each key's share of it, given the keys; of keys that aren't in the sums that means nothing."""
        mass = self.sums[..., -1:]
        products = None if log_k is None else self.features @ (log_k - self.key_peak).exp().mT / mass
        return self.sums[..., :-1] / mass, self.peak + mass.log(), products


def log_features(x: Float[Tensor, "B H n D"], w: Float[Tensor, "F D"]) -> Float[Tensor, "B H n F"]:
    """ln φ(x), without the constant that counts the features."""
    return x @ w.T - x.square().sum(-1, keepdim=True) / 2


def look_at_all(q: Tensor, k: Tensor, v: Tensor, w: Float[Tensor, "F D"]) -> Iterator[Rows]:
    """Every query's share of all keys, a chunk at a time."""
    sums = nothing(k, v, w)
    for keys, values in zip(k.split(CHUNK, -2), v.split(CHUNK, -2), strict=True):
        sums = sums.after(log_features(keys, w), values)
    for queries in q.split(CHUNK, -2):
        yield look(queries @ w.T, sums)


def look_back(q: Tensor, k: Tensor, v: Tensor, w: Float[Tensor, "F D"]) -> Iterator[Rows]:
    """Every query's share of the keys up to its own, a chunk at a time."""
    sums = nothing(k, v, w)
    for queries, keys, values in zip(q.split(CHUNK, -2), k.split(CHUNK, -2), v.split(CHUNK, -2), strict=True):
        rows, sums = go_on(queries @ w.T, log_features(keys, w), values, sums)
        yield from rows


def go_on(log_q: Tensor, log_k: Tensor, v: Tensor, sums: Sums) -> tuple[list[Rows], Sums]:
    """A chunk's queries on the keys before it and those of its own that aren't later; and the sums over all of these keys.

    The peaks of the chunk's end serve all of it, unless they leave nothing of what an early query sees: then it is cut in two.
    """
    after = sums.after(log_k, v)
    running = torch.maximum(log_k.cummax(-2).values, sums.peak)
    faded = (log_q + after.peak).amax(-1) - (log_q + running).amax(-1)
    if faded.max() > FADED:
        (q_early, q_late), (k_early, k_late), (v_early, v_late) = (each.tensor_split(2, -2) for each in (log_q, log_k, v))
        early, sums = go_on(q_early, k_early, v_early, sums)
        late, sums = go_on(q_late, k_late, v_late, sums)
        return early + late, sums
    rows = look(log_q, sums.raised(after.peak))
    within = (rows.features @ (log_k - after.peak).exp().mT).tril()
    return [rows._replace(sums=rows.sums + within @ v)], after


def look(log_q: Float[Tensor, "B H t F"], sums: Sums) -> Rows:
    """Some queries on all keys of the sums."""
    products = log_q + sums.peak
    peak = products.amax(-1, keepdim=True)
    features = (products - peak).exp()
    return Rows(features, sums.peak, features @ sums.total, peak)

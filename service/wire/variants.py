"""Attentions other than dense, as requests name them. The docstring under a field is its description in /docs."""

from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from kqv import InputError, Linformer, Longformer, Performer
from kqv.attention.longformer import GlobalHeads
from kqv.attention.variants import VARIANTS, Variant
from kqv.config import Group
from service.wire.tensors import Matrices, Matrix, floats
from service.wire.values import LINFORMER, LIST, LONGFORMER, NUMBER, PERFORMER, TEXT, Items, Wire, one_of, plain_form

KINDS = tuple(VARIANTS)
GLOBAL_HEADS = ("global_q", "global_k", "global_v")
GLOBAL_PROJECTIONS = ("w_q_global", "w_k_global", "w_v_global")
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]


def number_form(value: Any) -> str | None:
    """A number or a list."""
    return NUMBER.tag if isinstance(value, int) else plain_form(value)


def kind_form(value: Any) -> str | None:
    """A text, or an object of one of the kinds; both have their names as tags."""
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return f"[{kind}]" if kind in KINDS else TEXT.tag if isinstance(value, str) else None


class LongformerAttention(Wire):
    """A sliding window, and tokens that see all and are seen by all (Beltagy et al., 2020)."""

    kind: Literal["longformer"]
    window: int | None = None
    """How many neighbours a token sees: even, half of them to either side. Only a Longformer checkpoint has windows of its own."""
    dilation: Annotated[
        Annotated[int, NUMBER] | Annotated[Items[int], LIST], one_of(number_form, "a whole number, or a list of one for each head")
    ] = 1
    """Only every so manieth token is in the window, which reaches so much further: one number for all heads, or one for each."""
    global_tokens: Items[int] = []
    """Indices of tokens that see all and are seen by all, negative ones counted from the end."""


class LinformerAttention(Wire):
    """Keys and values mixed down to a few before attending (Wang et al., 2020)."""

    kind: Literal["linformer"]
    rank: int | None = None
    """How many are left of all keys, by projections that are drawn."""
    e: Matrices | None = None
    """In place of the rank, the projection of the keys: [rank, m] for all heads, or [H, rank, m]."""
    f: Matrices | None = None
    """That of the values, likewise; `e` without it."""
    seed: Seed = 0
    """Draws the projections; the same seed draws the same ones."""
    share_heads: bool = False
    """Draw the same for all heads."""
    share_values: bool = False
    """Draw the same for values as for keys."""


class PerformerAttention(Wire):
    """The softmax by positive orthogonal random features (Choromanski et al., 2021)."""

    kind: Literal["performer"]
    features: int | None = None
    """How many; d·ln d for heads of width d without it."""
    projection: Matrix | None = None
    """In place of drawn ones, the features' directions [features, d]."""
    seed: Seed = 0
    """Draws the features; the same seed draws the same ones."""


class LongformerHeads(LongformerAttention):
    """Likewise, on tensors of your own: global tokens may have projections of their own."""

    global_q: Matrices | None = None
    """Queries of all tokens by which the global ones look, [n, d_k] or [H, n, d_k]; beside `q`."""
    global_k: Matrices | None = None
    """Keys that the global tokens see."""
    global_v: Matrices | None = None
    """Values, likewise."""
    w_q_global: Matrix | None = None
    """Projection [d, H·d_k] to `global_q`; beside `x`."""
    w_k_global: Matrix | None = None
    """Projection to `global_k`."""
    w_v_global: Matrix | None = None
    """Projection to `global_v`."""


class Override(Wire):
    """An attention in place of a model's own."""

    groups: Items[Group] | None = None
    """The kinds of attention that run under it; all that it can serve without this."""


class LongformerOverride(LongformerAttention, Override):
    """Likewise; the other weights of a Longformer checkpoint stay in use."""


class LinformerOverride(LinformerAttention, Override):
    """Likewise."""

    share_layers: bool = False
    """Draw the same for all layers; given projections are always the same."""


class PerformerOverride(PerformerAttention, Override):
    """Likewise; each layer draws features of its own."""


DENSE = Annotated[Literal["dense"], TEXT]
EXPECTED = f'"dense", or an object with a kind, which is {", ".join(KINDS)}, and its parameters'
AttentionOfTensors = Annotated[
    DENSE
    | Annotated[LongformerHeads, LONGFORMER]
    | Annotated[LinformerAttention, LINFORMER]
    | Annotated[PerformerAttention, PERFORMER],
    one_of(kind_form, EXPECTED),
]
AttentionOfModel = Annotated[
    DENSE
    | Annotated[LongformerOverride, LONGFORMER]
    | Annotated[LinformerOverride, LINFORMER]
    | Annotated[PerformerOverride, PERFORMER],
    one_of(kind_form, EXPECTED),
]

Asked = Literal["dense"] | LongformerAttention | LinformerAttention | PerformerAttention


def read_variant(given: Asked) -> Variant | None:
    """The engine's attention; None for dense. Raises `InputError`, located within `attention`."""
    match given:
        case LongformerAttention(dilation=dilation):
            return Longformer(
                window=given.window,
                dilation=dilation if isinstance(dilation, int) else tuple(dilation),
                global_tokens=tuple(given.global_tokens),
                global_heads=read_global_heads(given) if isinstance(given, LongformerHeads) else None,
            )
        case LinformerAttention():
            return Linformer(
                rank=given.rank,
                e=read_matrix(given, "e"),
                f=read_matrix(given, "f"),
                seed=given.seed,
                share_heads=given.share_heads,
                share_values=given.share_values,
                share_layers=isinstance(given, LinformerOverride) and given.share_layers,
            )
        case PerformerAttention():
            return Performer(features=given.features, projection=read_matrix(given, "projection"), seed=given.seed)
    return None


def read_matrix(given: Wire, field: str) -> Tensor | None:
    """A tensor among the parameters."""
    value = getattr(given, field)
    return None if value is None else floats(value, "attention", field)


def read_global_heads(given: LongformerHeads) -> GlobalHeads | None:
    """The queries, keys and values that the global tokens look by, where they are given."""
    q, k, v = (read_matrix(given, field) for field in GLOBAL_HEADS)
    return None if q is None or k is None or v is None else GlobalHeads(q, k, v)


def read_global_projections(given: Asked) -> dict[str, Tensor]:
    """The projections to those, by their fields."""
    if not isinstance(given, LongformerHeads):
        return {}
    found = {field: read_matrix(given, field) for field in GLOBAL_PROJECTIONS}
    return {field: matrix for field, matrix in found.items() if matrix is not None}


def check_global(given: Asked, of_vectors: bool) -> None:
    """Raise `InputError` unless the global heads are all there or none, and in the form of the rest."""
    if not isinstance(given, LongformerHeads):
        return
    fitting, other = (GLOBAL_PROJECTIONS, GLOBAL_HEADS) if of_vectors else (GLOBAL_HEADS, GLOBAL_PROJECTIONS)
    there = [field for field in fitting if getattr(given, field) is not None]
    for field in other:
        if getattr(given, field) is not None:
            message = f"{field} can't stand beside {'x' if of_vectors else 'q'}; give {', '.join(fitting)}"
            raise InputError(message, ("attention", field))
    if there and len(there) < len(fitting):
        missing = next(field for field in fitting if field not in there)
        raise InputError(f"{missing} is missing; {' and '.join(there)} can't do without it", ("attention", missing))

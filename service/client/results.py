"""What a call gives: the fields of the engine's `Analysis` and `Generated` by the same names, with numpy arrays in them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import nan
from typing import Any, Generic, Literal, TypeVar, overload

import numpy as np

from kqv.show import Shown

Array = np.ndarray[Any, Any]
Group = Literal["encoder", "decoder", "cross"]
Fields = Mapping[str, Any]
T = TypeVar("T")
MOST_SHOWN = 4
"""Results of an answer that a notebook shows."""


@dataclass(frozen=True, eq=False)
class TopWeights:
    """The keys that each query looks at most, strongest first: both [L, H, Q, k]."""

    keys: Array
    """Indices into the whole sequence."""
    weights: Array


@dataclass(frozen=True, eq=False)
class Comparison:
    """How far each head is from dense attention on the same queries, keys and values: both [L, H], or [H]."""

    output_error: Array
    weight_error: Array


@dataclass(frozen=True, eq=False)
class GroupAnalysis:
    """One kind of attention of one sequence: L layers, H heads, Q queries, K keys, n tokens. None for what was not asked."""

    layers: tuple[int, ...]
    heads: tuple[int, ...]
    weights: Array | None = None
    """[L, H, Q, K]."""
    top: TopWeights | None = None
    pooled: Array | None = None
    """[L, H, p, r]: the largest weight of each tile."""
    q: Array | None = None
    """[L, H, n, d], as k, v and head_outputs."""
    k: Array | None = None
    v: Array | None = None
    scaled_scores: Array | None = None
    """[L, H, Q, K], −inf where masked."""
    head_outputs: Array | None = None
    diagnostics: dict[str, Array] = field(default_factory=dict)
    """[L, H] by id, [L, H, Q] with `per_query`, [L, H, H] for similarity; NaN where undefined."""
    attention: str | None = None
    """What the layers attended by, where that was put in place of the model's own attention."""
    comparison: Comparison | None = None


@dataclass(frozen=True)
class Checks:
    """What the answer's attention was measured to obey."""

    row_sum_error: float
    forbidden_mass: float


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
    hidden: Array | None = None
    """[n, d]."""
    pooled: Array | None = None
    """[d]."""
    logits: Array | None = None
    """[n, vocabulary]."""
    truncated: int = 0
    """Tokens that were cut off to fit the context."""
    checks: Checks | None = None


@dataclass(frozen=True, eq=False)
class Generated:
    """A text that a model wrote, and what it looked at meanwhile."""

    text: str | None
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...] | None
    finish_reason: Literal["length", "stop", "end"]
    attention: dict[Group, GroupAnalysis]


@dataclass(frozen=True, eq=False)
class Token:
    """A new token of a text that is being written."""

    index: int
    """The sequence that it belongs to."""
    token_id: int
    token: str | None
    text: str | None
    """What the text has grown by."""
    attention: dict[Group, GroupAnalysis]
    """Of the tokens that this step read: all of the prompt, and afterwards the token before this one."""


@dataclass(frozen=True, eq=False)
class Attended:
    """The steps of attention, each named as in the formula: H heads, n queries, m keys. None for what was not included."""

    q: Array | None = None
    k: Array | None = None
    v: Array | None = None
    scores: Array | None = None
    """Q·Kᵀ, [H, n, m], as scaled_scores and weights."""
    scaled_scores: Array | None = None
    weights: Array | None = None
    head_outputs: Array | None = None
    """weights · V, [H, n, d]."""
    output: Array | None = None
    """[n, d]."""
    diagnostics: dict[str, Array] = field(default_factory=dict)
    """By id, [H]."""
    comparison: Comparison | None = None


@dataclass(frozen=True)
class Row:
    """What one head measures."""

    sequence: int
    """Its place in the request."""
    group: Group
    layer: int
    head: int
    measure: str
    """Id of the diagnostic."""
    value: float
    """NaN where it is undefined."""


@dataclass(frozen=True)
class EmbedToken:
    """What a page of another site sends in place of a key."""

    token: str = field(repr=False)
    expires_at: int
    """In seconds since 1970."""


@dataclass(frozen=True)
class TokenizedText:
    """One entry a token in each field."""

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...]
    """Half-open ranges of characters in the segment that the token is from; (0, 0) for special tokens."""
    token_types: tuple[int, ...]


@dataclass(frozen=True)
class ModelCard:
    """What a model is."""

    id: str
    architecture: str
    layers: int
    groups: dict[Group, int]
    """The kinds of attention that it has, each with its number of layers."""
    heads: int
    d_model: int
    context: int
    vocabulary_size: int
    dtype: str
    device: str
    parameters: int
    revision: str


@dataclass(frozen=True)
class Health:
    """Whether the server wants requests, and why not."""

    ready: bool
    detail: str | None = None


@dataclass(frozen=True)
class Timing:
    """Where the time went, at the server."""

    queue_ms: float
    compute_ms: float
    batch_sequences: int


@dataclass(frozen=True)
class Usage:
    """What the request amounted to."""

    sequences: int
    tokens: int
    new_tokens: int | None = None
    """Of them written, where a text was."""


@dataclass(frozen=True, eq=False)
class Answer(Sequence[T], Generic[T]):
    """The results, one for each sequence of the request, or row of a table, in its order; and what else the answer says."""

    results: tuple[T, ...]
    model: str
    """Id of the model that answered."""
    usage: Usage
    timing: Timing | None
    """None where the device had nothing to do."""
    request_id: str | None
    """By which the server's log has it."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[T]:
        return iter(self.results)

    def _repr_html_(self) -> str | None:
        """In a notebook: the first results that show themselves."""
        shown = [each._repr_html_() for each in self.results[:MOST_SHOWN] if isinstance(each, Shown) and each.attention]
        return "".join(shown) or None


def build(kind: type[T], given: Fields, **changed: object) -> T:
    """One of the classes above from the fields of an answer; what a newer server says beside them is left out."""
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in given.items() if name in known} | changed)


def optional_tuple(value: Sequence[Any] | None) -> tuple[Any, ...] | None:
    """Lists of an answer don't change any more."""
    return None if value is None else tuple(value)


def read_group(given: Fields) -> GroupAnalysis:
    """One kind of attention."""
    top, comparison = given.get("top"), given.get("comparison")
    return build(
        GroupAnalysis,
        given,
        layers=tuple(given["layers"]),
        heads=tuple(given["heads"]),
        top=top and build(TopWeights, top),
        comparison=comparison and build(Comparison, comparison),
    )


def read_attention(given: Fields) -> dict[Group, GroupAnalysis]:
    """Every kind of attention; none where nothing was asked of it."""
    return {group: read_group(found) for group, found in (given.get("attention") or {}).items()}


def read_analysis(given: Fields) -> Analysis:
    """A result of `/v1/analyze`."""
    lists = ("tokens", "token_ids", "target_tokens", "target_token_ids")
    checks = given.get("checks")
    return build(
        Analysis,
        given,
        **{name: optional_tuple(given.get(name)) for name in lists},
        attention=read_attention(given),
        checks=checks and build(Checks, checks),
    )


def read_generated(given: Fields) -> Generated:
    """A result of `/v1/generate`."""
    lists = {name: optional_tuple(given.get(name)) for name in ("tokens", "token_ids")}
    return build(Generated, {"text": None, **given}, **lists, attention=read_attention(given))


def read_token(given: Fields) -> Token:
    """A `token` event."""
    return build(Token, {"token": None, "text": None, **given}, attention=read_attention(given))


def read_attended(given: Fields) -> Attended:
    """The answer of `/v1/attend`."""
    comparison = given.get("comparison")
    return build(Attended, given, comparison=comparison and build(Comparison, comparison))


def read_row(given: Fields) -> Row:
    """A row of `/v1/diagnostics`."""
    value = given["value"]
    return build(Row, given, value=nan if value is None else value)


def read_tokenized(given: Fields) -> TokenizedText:
    """A result of `/v1/tokenize`."""
    lists = {name: tuple(given[name]) for name in ("token_ids", "tokens", "token_types")}
    return build(TokenizedText, given, **lists, offsets=tuple((start, stop) for start, stop in given["offsets"]))


def read_usage(given: Fields) -> Usage:
    """What the request amounted to."""
    return build(Usage, given)

"""Requests and answers as they are on the wire. The docstring under a field is its description in /docs."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, Strict

from kqv.diagnostics import DIAGNOSTICS
from kqv.inputs import Truncate
from kqv.selection import Output, Weights
from service.http.embed_tokens import Route
from service.settings import check_origins
from service.wire.encoding import Encoding
from service.wire.tensors import AttentionMask, Matrices, Matrix
from service.wire.values import IDS, LIST, OBJECT, TEXT, Items, Number, Wire, one_of, plain_form, sequence_form, unbuilt
from service.wire.variants import AttentionOfModel, AttentionOfTensors

Crop = Annotated[tuple[int, int], Strict(False)]  # a list outside of JSON too, where a file of tensors has one
ModelId = Annotated[str, Field(max_length=256)]


Target = Annotated[
    Annotated[str, TEXT] | Annotated[Items[int], LIST],
    one_of(plain_form, "a text or a list of token ids"),
]


class SequenceObject(Wire):
    """One sequence: exactly one of `text`, `tokens` and `embeddings`."""

    text: str | None = None
    """A text, which gets the tokenizer's special tokens."""
    tokens: Items[int] | None = None
    """Token ids, taken as they are."""
    embeddings: Matrix | None = None
    """Vectors [n, d_model] in place of the token embeddings; positions are still added."""
    pair: str | None = None
    """Second segment, beside `text`, for models that read two."""
    target: Target | None = None
    """What the decoder of an encoder–decoder reads: a text, which the start token is put before, or all its token ids. Without it
    the decoder reads what the model writes itself."""


Sequence = Annotated[
    Annotated[str, TEXT] | Annotated[Items[int], IDS] | Annotated[SequenceObject, OBJECT],
    one_of(sequence_form, "a text, a list of token ids, or an object with one of text, tokens and embeddings"),
]
Input = Annotated[
    Annotated[str, TEXT]
    | Annotated[Items[int], IDS]
    | Annotated[SequenceObject, OBJECT]
    | Annotated[Annotated[Items[Sequence], Field(min_length=1)], LIST],
    one_of(sequence_form, "a sequence or a list of them; one is a text, a list of token ids, or an object"),
]
Diagnostics = Annotated[
    Annotated[Literal["all", "none"], TEXT] | Annotated[Items[str], LIST],
    one_of(plain_form, f'"all", "none", or a list of {", ".join(DIAGNOSTICS)}'),
]


class AnalyzeRequest(Wire):
    """A forward pass of a model, and what to show of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"input": "The cat sat on the mat."},
                {
                    "input": ["The cat sat.", {"text": "A question?", "pair": "An answer."}],
                    "layers": [-1],
                    "weights": "top",
                    "top_k": 3,
                },
                {"input": [101, 1996, 4937, 102], "weights": "none", "diagnostics": ["entropy", "previous"], "outputs": ["pooled"]},
            ]
        }
    )

    model: ModelId | None = None
    """Id of the model; the server's default without it."""
    input: Input
    """One sequence or a list of them: texts, lists of token ids, or objects."""
    layers: Items[int] | None = None
    """Layers to report, negative ones counted from the end; all without it."""
    heads: Items[int] | None = None
    """Heads to report, likewise."""
    weights: Weights = "full"
    """Whole attention maps, the `top_k` keys of each query, maps max-pooled to a side of `pool`, or none."""
    top_k: int = Field(default=8, ge=1)
    """Keys kept of each query with "top", and counted by the diagnostic top_k_mass; all where there are fewer."""
    pool: int = Field(default=32, ge=1)
    """Side of the maps with "pooled"."""
    queries: Crop | None = None
    """Half-open range [start, stop] of the queries that are reported; all without it."""
    keys: Crop | None = None
    """Half-open range of the keys, likewise."""
    diagnostics: Diagnostics = "all"
    """Ids of the measures wanted; "all" is all but those by name only."""
    per_query: bool = False
    """Diagnostics of each query instead of their mean."""
    outputs: Items[Output] = ["hidden"]
    """What else to give: hidden states, pooled vector, logits, or the heads' own tensors."""
    attention: AttentionOfModel = "dense"
    """What the layers attend by: "dense", which is the model's own attention, or an object with its `kind` and its parameters."""
    compare: bool = False
    """With another attention: also its distance from dense, of outputs and of weights, a layer and head."""
    interventions: Annotated[Items[Any], unbuilt([])] = []
    """Ablations. Not built yet."""
    truncate: Truncate = "error"
    """What happens to a sequence longer than the model's context: refused, or cut at that end."""
    encoding: Encoding = "lists"
    """How JSON has the answer's tensors: as nested lists, or as objects with dtype, shape and base64 data."""


class RowsRequest(Wire):
    """Sequences, and what to measure of a model's heads while it reads them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"input": "The cat sat on the mat.", "layers": [0], "diagnostics": ["entropy", "previous"]}]
        }
    )

    model: ModelId | None = None
    """Id of the model; the server's default without it."""
    input: Input
    """One sequence or a list of them: texts, lists of token ids, or objects."""
    layers: Items[int] | None = None
    """Layers to report, negative ones counted from the end; all without it."""
    heads: Items[int] | None = None
    """Heads to report, likewise."""
    diagnostics: Diagnostics = "all"
    """Ids of the measures wanted, all but `similarity`; "all" is all but those by name only."""
    truncate: Truncate = "error"
    """What happens to a sequence longer than the model's context: refused, or cut at that end."""


Stop = Annotated[str, Field(max_length=256)]


class GenerateRequest(Wire):
    """Texts to go on with, how, and what to show of the attention meanwhile."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"input": "The cat sat on", "max_new_tokens": 16},
                {"input": ["Once upon a time", "The cat"], "max_new_tokens": 20, "temperature": 0.8, "seed": 7, "stop": ["."]},
                {"input": "The cat sat on", "max_new_tokens": 4, "weights": "top", "layers": [-1], "stream": True},
            ]
        }
    )

    model: ModelId | None = None
    """Id of the model; the server's default without it."""
    input: Input
    """One sequence or a list of them, each of which is gone on with; for an encoder–decoder, what its encoder reads."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Most tokens that are written for each sequence."""
    temperature: Number = Field(default=0.0, ge=0)
    """Divides the logits before one is drawn; 0 takes the likeliest token always."""
    top_p: Number = Field(default=1.0, gt=0, le=1)
    """Draws only from the likeliest tokens that make up this share."""
    top_k: int = Field(default=0, ge=0)
    """Draws only from so many of the likeliest tokens; 0 for all."""
    seed: int | None = Field(default=None, ge=0, lt=1 << 63)
    """The same seed writes the same text, whatever else the server does; chance without it."""
    stop: Annotated[Annotated[Stop, TEXT] | Annotated[Items[Stop], LIST], one_of(plain_form, "a text or a list of texts")] = []
    """Texts that end a sequence; they and what follows are left out of its text."""
    stream: bool = False
    """Send each token as it comes, as a server-sent event."""
    layers: Items[int] | None = None
    """Layers to report, negative ones counted from the end; all without it."""
    heads: Items[int] | None = None
    """Heads to report, likewise."""
    weights: Literal["none", "top", "full"] = "none"
    """Attention of each token that was read: none, the 8 keys that it looked at most, or all of them."""
    diagnostics: Diagnostics = "none"
    """Ids of the measures wanted, of those that are defined for each query; "all" is all of these."""
    per_query: bool = False
    """Diagnostics of each query instead of their mean; those of a `token` event always are."""
    truncate: Truncate = "error"
    """What happens to a sequence longer than the model's context: refused, or cut at that end."""
    encoding: Encoding = "lists"
    """How JSON has the answer's tensors: as nested lists, or as objects with dtype, shape and base64 data."""


Step = Literal["q", "k", "v", "scores", "scaled_scores", "weights", "head_outputs", "output", "diagnostics"]


class AttendRequest(Wire):
    """Attention itself: of `q`, `k` and `v`, or of vectors `x` that are projected to them first. Computed in float32."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"q": [[1, 0], [0, 1]], "k": [[1, 0], [0, 1]], "v": [[1, 2], [3, 4]], "mask": "causal"},
                {"x": [[1, 0, 2, 0], [0, 1, 0, 2], [1, 1, 1, 1]], "num_heads": 2, "seed": 0, "include": ["weights", "output"]},
                {
                    "x": [[1, 0, 2, 0], [0, 1, 0, 2], [1, 1, 1, 1]],
                    "num_heads": 2,
                    "seed": 0,
                    "attention": {"kind": "longformer", "window": 2},
                    "compare": True,
                },
            ]
        }
    )

    q: Matrices | None = None
    """Queries [n, d_k] of one head, or [H, n, d_k] of several."""
    k: Matrices | None = None
    """Keys [m, d_k], or [H, m, d_k]."""
    v: Matrices | None = None
    """Values [m, d_v], or [H, m, d_v]."""
    x: Matrix | None = None
    """Vectors [n, d], in place of `q`, `k` and `v`."""
    context: Matrix | None = None
    """Vectors [m, c] that `x` attends to: cross-attention. Without it `x` attends to itself."""
    num_heads: int | None = Field(default=None, ge=1)
    """Into how many heads the projections of `x` are cut."""
    w_q: Matrix | None = None
    """Projection [d, H·d_k] of x to the queries."""
    w_k: Matrix | None = None
    """Projection [c, H·d_k] of the context to the keys."""
    w_v: Matrix | None = None
    """Projection [c, H·d_v] of the context to the values."""
    w_o: Matrix | None = None
    """Projection [H·d_v, d] of the heads' outputs."""
    seed: int | None = Field(default=None, ge=0, lt=1 << 63)
    """Draws the four projections, in place of giving them; the same seed draws the same ones."""
    mask: AttentionMask = "none"
    """Which keys a query sees: all, those up to its own place, or booleans [n, m], true = visible."""
    bias: Matrices | None = None
    """Added to the scaled scores, [n, m] or [H, n, m]."""
    scale: Number | None = None
    """Factor of the scores; 1/√d_k without it."""
    attention: AttentionOfTensors = "dense"
    """Another attention than the formula's: an object with its `kind` and its parameters."""
    compare: bool = False
    """With another attention: also its distance from dense, of outputs and of weights, a head."""
    include: Items[Step] | None = None
    """Steps to show; all without it."""
    encoding: Encoding = "lists"
    """How JSON has the answer's tensors: as nested lists, or as objects with dtype, shape and base64 data."""


Texts = Annotated[
    Annotated[str, TEXT] | Annotated[Annotated[Items[str], Field(min_length=1)], LIST],
    one_of(plain_form, "a text or a list of texts"),
]


class TokenizeRequest(Wire):
    """Texts, to see how a model reads them."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": "The cat sat on the mat."}, {"input": ["one", "two"]}]})

    model: ModelId | None = None
    """Id of the model; the server's default without it."""
    input: Annotated[
        Annotated[str, TEXT] | Annotated[Annotated[Items[str], Field(min_length=1)], LIST],
        one_of(plain_form, "a text or a list of texts"),
    ]
    """One text or several."""
    pair: str | None = None
    """Second segment, beside a single text."""


Origin = Annotated[str, AfterValidator(lambda origin: check_origins((origin,))[0])]


class EmbedScope(Wire):
    """What the bearer of an embed token may do."""

    routes: Annotated[Items[Route], Field(min_length=1)] = ["analyze", "tokenize", "models"]
    """Of `analyze`, `attend`, `generate`, `tokenize`, `embeddings` and `models`, the last being its list and its cards."""
    models: Annotated[Items[ModelId], Field(min_length=1, max_length=32)] | None = None
    """The models that it sees, by id; all without it."""


class EmbedTokenRequest(Wire):
    """A token for pages of other sites."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"origins": ["https://example.org"], "scope": {"models": ["minilm"]}, "ttl": 120}]}
    )

    origins: Annotated[Items[Origin], Field(max_length=16)]
    """The origins whose pages may use it, such as https://example.org; with none, the service's own alone, as in a frame."""
    scope: EmbedScope = EmbedScope()
    """What it lets them do."""
    ttl: int = Field(default=300, ge=1, le=300)
    """Seconds until it ends."""

"""Answers as they are on the wire: they are encoded straight from the engine's results, and described here for /docs."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from kqv.config import Architecture, Group
from kqv.generate import FinishReason

Figure = float | None


class Answer(BaseModel):
    """An object in an answer; a field that was not asked for is absent."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class EncodedAnswer(Answer):
    """A tensor as bytes, with `encoding` "base64"."""

    dtype: Literal["float32", "float64", "int64", "bool"]
    """Type of one element, little-endian."""
    shape: list[int]
    """Its dimensions."""
    data: str
    """The elements, row-major, in base64."""


Vector = list[float] | EncodedAnswer
Rows = list[list[float]] | EncodedAnswer
Stack = list[list[list[float]]] | EncodedAnswer
Heads = list[list[list[list[float]]]] | EncodedAnswer


class TopWeights(Answer):
    """The keys that each query looks at most, strongest first."""

    keys: list[list[list[list[int]]]] | EncodedAnswer
    """[L][H][Q][k] indices into the whole sequence."""
    weights: Heads
    """[L][H][Q][k]."""


class Comparison(Answer):
    """How far each head is from dense attention on the same queries, keys and values."""

    output_error: list[list[Figure]] | EncodedAnswer
    """‖O − O'‖ / ‖O'‖ over all queries, O' being dense attention's outputs; [L][H]."""
    weight_error: list[list[Figure]] | EncodedAnswer
    """½ Σ_j |p_ij − p'_ij| as a mean over the queries; [L][H]."""


class GroupAnswer(Answer):
    """One kind of attention of one sequence: L layers, H heads, Q queries, K keys, n tokens."""

    layers: list[int]
    """The layers reported, in order."""
    heads: list[int]
    """The heads reported, in order."""
    weights: Heads | None = None
    """[L][H][Q][K], with weights "full"."""
    top: TopWeights | None = None
    """With weights "top"."""
    pooled: Heads | None = None
    """[L][H][p][p], with weights "pooled": the largest weight of each tile."""
    q: Heads | None = None
    """[L][H][n][d_k]."""
    k: Heads | None = None
    """[L][H][n][d_k]."""
    v: Heads | None = None
    """[L][H][n][d_v]."""
    scaled_scores: list[list[list[list[Figure]]]] | EncodedAnswer | None = None
    """[L][H][Q][K], null where masked."""
    head_outputs: Heads | None = None
    """[L][H][n][d_v]."""
    diagnostics: dict[str, list[list[Figure | list[Figure]]] | EncodedAnswer] | None = None
    """By id: [L][H], [L][H][Q] with per_query, [L][H][H] for similarity; null where undefined."""
    attention: Literal["longformer", "linformer", "performer"] | None = None
    """What the layers attended by, where that was put in place of the model's own attention."""
    comparison: Comparison | None = None
    """With `compare`."""


class Checks(Answer):
    """What the answer's attention was measured to obey."""

    row_sum_error: float
    """The largest |Σp − 1| of any query that sees a key."""
    forbidden_mass: float
    """The largest weight on a masked key."""


class SequenceAnswer(Answer):
    """All that was asked about one sequence, without padding."""

    tokens: list[str] | None = None
    """Token strings; absent where embeddings were given, or the model has no tokenizer."""
    token_ids: list[int] | None = None
    """Token ids; absent where embeddings were given."""
    target_tokens: list[str] | None = None
    """What the decoder of an encoder–decoder read: the `target`, or the model's own text."""
    target_token_ids: list[int] | None = None
    """Likewise."""
    truncated: int
    """How many tokens were cut off to fit the model's context."""
    attention: dict[Group, GroupAnswer] | None = None
    """What was asked of each kind of attention that the model has."""
    hidden: Rows | None = None
    """[n][d], the last hidden state."""
    pooled: Vector | None = None
    """[d], one vector for the sequence."""
    logits: Rows | None = None
    """[n][vocabulary]."""
    checks: Checks | None = None
    """Absent where no attention was looked at."""


class Usage(Answer):
    """What the request amounted to."""

    sequences: int
    """Sequences in the request."""
    tokens: int
    """Tokens in all of them."""


class Timing(Answer):
    """Where the time went."""

    queue_ms: float
    """The longest that a sequence waited for the device, before all of its runs together."""
    compute_ms: float
    """How long the device worked on the batches that the request was in."""
    batch_sequences: int
    """Sequences in the largest of those batches, of this request and of others."""


class AnalyzeAnswer(Answer):
    """A result for each sequence, in the request's order."""

    model: str
    """Id of the model that answered."""
    results: list[SequenceAnswer]
    usage: Usage
    timing: Timing


class Row(Answer):
    """A figure of one head."""

    sequence: int
    """Its place in the request."""
    group: Group
    layer: int
    head: int
    measure: str
    """Id of the diagnostic."""
    value: Figure
    """Null where it is undefined."""


class RowsAnswer(Answer):
    """A row for each sequence, measure, layer and head, in this order."""

    model: str
    """Id of the model that answered."""
    rows: list[Row]
    usage: Usage
    timing: Timing


class GeneratedText(Answer):
    """What was written for one sequence."""

    text: str | None = None
    """The new text, without special tokens; absent where the model has no tokenizer."""
    token_ids: list[int]
    """The new ones; the end token, where it ended the text, is the last."""
    tokens: list[str] | None = None
    """Likewise, as strings."""
    finish_reason: FinishReason
    """`max_new_tokens` was reached, a stop text came, or the model's own end token."""
    attention: dict[Group, GroupAnswer] | None = None
    """Of all tokens that were read: the prompt and the new ones but the last. Query i chose token i + 1."""


class GenerationUsage(Usage):
    """What the request amounted to."""

    tokens: int
    """Tokens read and written."""
    new_tokens: int
    """Tokens written."""


class GenerateAnswer(Answer):
    """A result for each sequence, in the request's order."""

    model: str
    """Id of the model that answered."""
    results: list[GeneratedText]
    usage: GenerationUsage
    timing: Timing


class TokenEvent(Answer):
    """A `token` event of a stream."""

    index: int
    """The sequence that the token belongs to."""
    token_id: int
    token: str | None = None
    text: str | None = None
    """What the text has grown by; nothing yet, where a character is not whole, or may be the beginning of a stop text."""
    attention: dict[Group, GroupAnswer] | None = None
    """Of the tokens that this step read: all of the prompt, and afterwards the token before this one."""


class HeadComparison(Answer):
    """How far each head is from dense attention on the same queries, keys and values."""

    output_error: list[Figure] | EncodedAnswer
    """‖O − O'‖ / ‖O'‖ over all queries, O' being dense attention's outputs; [H]."""
    weight_error: list[Figure] | EncodedAnswer
    """½ Σ_j |p_ij − p'_ij| as a mean over the queries; [H]."""


class AttendAnswer(Answer):
    """The steps of attention, each named as in the formula: H heads, n queries, m keys. Another attention than dense leaves out
    those that it doesn't have."""

    q: Stack | None = None
    """[H][n][d_k]."""
    k: Stack | None = None
    """[H][m][d_k]."""
    v: Stack | None = None
    """[H][m][d_v]."""
    scores: Stack | None = None
    """Q·Kᵀ, [H][n][m]."""
    scaled_scores: list[list[list[Figure]]] | EncodedAnswer | None = None
    """scores · scale + bias, [H][n][m], null where masked."""
    weights: Stack | None = None
    """softmax(scaled_scores), [H][n][m]."""
    head_outputs: Stack | None = None
    """weights · V, [H][n][d_v]."""
    output: Rows | None = None
    """Concat(head_outputs) · W_O, [n][d]; without projections the heads' outputs side by side."""
    diagnostics: dict[str, list[Figure] | EncodedAnswer] | None = None
    """By id, [H]; null where undefined."""
    comparison: HeadComparison | None = None
    """With `compare`."""


class TokenizedText(Answer):
    """One entry a token in each field."""

    token_ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]
    """Half-open ranges of characters in the segment that the token is from; [0, 0] for special tokens."""
    token_types: list[int]
    """0 in the first segment, 1 in the second."""


class TokenizeAnswer(Answer):
    """A result for each text, in the request's order."""

    model: str
    results: list[TokenizedText]
    usage: Usage


class ModelCard(Answer):
    """What a model is."""

    id: str
    object: Literal["model"] = "model"
    architecture: Architecture
    layers: int
    """Layers of all its stacks together."""
    groups: dict[Group, int]
    """The kinds of attention that it has, each with its number of layers."""
    heads: int
    """Heads of each layer."""
    d_model: int
    """Width of the residual stream."""
    context: int
    """Longest sequence, in tokens."""
    vocabulary_size: int
    dtype: str
    device: str
    parameters: int
    """Number of weights; shared ones count once."""
    revision: str
    """Tells two versions of a model apart."""


class ModelList(Answer):
    """The models that are served, the default one first."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class EmbedTokenAnswer(Answer):
    """A token for pages of other sites."""

    token: str
    """What such a page sends in place of a key, as `Authorization: Bearer TOKEN`."""
    expires_at: int
    """When it ends, in seconds since 1970."""


class Health(Answer):
    """The service is up."""

    status: Literal["ok"] = "ok"


class FieldProblem(Answer):
    """One field at fault."""

    loc: list[str | int]
    """Its path in the request."""
    msg: str
    """What is wrong with it, and what to do."""


class Problem(Answer):
    """A problem document (RFC 9457)."""

    type: str
    """Tells kinds of problems apart; about:blank where the status says it all."""
    title: str
    status: int
    detail: str
    """What went wrong here, and what to do."""
    request_id: str
    """The X-Request-Id of this request, by which the log has it."""
    errors: list[FieldProblem] | None = None
    """The fields at fault, with status 422."""

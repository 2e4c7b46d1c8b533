"""What can be asked of a server: each function says what to send, and how to read the answer. Nothing here sends anything."""

from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from service.client.errors import unexpected
from service.client.exchange import Reply
from service.client.results import (
    Analysis,
    Answer,
    Array,
    Attended,
    EmbedToken,
    Fields,
    Generated,
    Health,
    ModelCard,
    Row,
    Timing,
    TokenizedText,
    Usage,
    build,
    read_analysis,
    read_attended,
    read_generated,
    read_row,
    read_tokenized,
    read_usage,
)
from service.client.tensors import FILE, JSON, read_content, write_file, write_json

T = TypeVar("T")
R = TypeVar("R")

SequenceLike = str | Sequence[int] | Mapping[str, Any]
"""A text, token ids, or a mapping with one of `text`, `tokens` and `embeddings`, and perhaps `pair` or `target`."""
Input = SequenceLike | Sequence[SequenceLike]
Matrix = Any
"""Nested lists, a numpy array, or anything that becomes one, such as a torch tensor."""
Wire = Literal["safetensors", "json"]
Route = Literal["analyze", "attend", "generate", "tokenize", "embeddings", "models"]
"""What an embed token may be for."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and how its answer is read."""

    path: str
    read: Callable[[Any, Reply], T]
    """Makes the result of the answer's content."""
    fields: Fields | None = None
    """Those of the body; without them it is a GET."""
    has_tensors: bool = False
    """Whether the route takes and gives files of tensors."""
    streams: bool = False
    expected: frozenset[int] = frozenset({200})
    """The statuses that are answers, and no errors."""

    def message(self, wire: Wire) -> tuple[dict[str, str], bytes | None]:
        """The headers and the body to send."""
        if self.fields is None:
            return {"accept": JSON}, None
        given = {name: value for name, value in self.fields.items() if value is not None}
        file = write_file(given) if wire == "safetensors" and self.has_tensors else None
        wanted = FILE if wire == "safetensors" and self.has_tensors and not self.streams else JSON
        if self.has_tensors and wanted == JSON:
            given["encoding"] = "base64"
            file = file and write_file(given)
        accept = "text/event-stream" if self.streams else wanted
        return {"accept": accept, "content-type": FILE if file else JSON}, file or write_json(given)

    def result(self, reply: Reply) -> T:
        """What the answer says. Raises `UnexpectedAnswerError`."""
        try:
            return self.read(read_content(reply.header.get("content-type", ""), reply.body), reply)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            detail = "an answer that this client can't read; is this a kqv server, of a version near the client's?"
            raise unexpected(reply.status, detail) from error


def streamed(call: Call[T]) -> Call[T]:
    """The same as server-sent events."""
    return replace(call, fields={**(call.fields or {}), "stream": True}, streams=True)


def post(path: str, fields: Fields, read: Callable[[Any, Reply], T], **more: Any) -> Call[T]:
    """A call of a route that works: the fields are the function's own arguments."""
    return Call(path, read, fields, **more)


def read_answer(read: Callable[[Fields], R], content: Any, reply: Reply) -> Answer[R]:
    """A result for each sequence."""
    timing = content.get("timing")
    return Answer(
        tuple(read(each) for each in content["results"]),
        content["model"],
        read_usage(content["usage"]),
        timing and build(Timing, timing),
        reply.request_id,
    )


def listed(value: Any) -> Any:
    """Token ids in arrays as lists, which is how they are sent."""
    match value:
        case np.ndarray():
            return value.tolist()
        case list() | tuple():
            return [listed(each) for each in value]
    return value


def analyze(
    input: Input,
    *,
    model: str | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    weights: Literal["full", "top", "pooled", "none"] | None = None,
    top_k: int | None = None,
    pool: int | None = None,
    queries: tuple[int, int] | None = None,
    keys: tuple[int, int] | None = None,
    diagnostics: Literal["all", "none"] | Sequence[str] | None = None,
    per_query: bool | None = None,
    outputs: Sequence[str] | None = None,
    attention: Literal["dense"] | Mapping[str, Any] | None = None,
    compare: bool | None = None,
    interventions: Sequence[Mapping[str, Any]] | None = None,
    truncate: Literal["error", "left", "right"] | None = None,
) -> Call[Answer[Analysis]]:
    """A model's pass over one sequence or several, and what its attention did: `POST /v1/analyze`, whose defaults hold."""
    return post("/v1/analyze", locals() | {"input": listed(input)}, partial(read_answer, read_analysis), has_tensors=True)


def attend(
    q: Matrix,
    k: Matrix,
    v: Matrix,
    *,
    mask: Literal["none", "causal"] | Matrix | None = None,
    bias: Matrix | None = None,
    scale: float | None = None,
    attention: Literal["dense"] | Mapping[str, Any] | None = None,
    compare: bool | None = None,
    include: Sequence[str] | None = None,
) -> Call[Attended]:
    """Attention on queries, keys and values of your own, [n, d] or [H, n, d], step by step: `POST /v1/attend`."""
    return post("/v1/attend", locals(), lambda content, _: read_attended(content), has_tensors=True)


def multi_head(
    x: Matrix,
    num_heads: int,
    *,
    context: Matrix | None = None,
    w_q: Matrix | None = None,
    w_k: Matrix | None = None,
    w_v: Matrix | None = None,
    w_o: Matrix | None = None,
    seed: int | None = None,
    mask: Literal["none", "causal"] | Matrix | None = None,
    bias: Matrix | None = None,
    scale: float | None = None,
    attention: Literal["dense"] | Mapping[str, Any] | None = None,
    compare: bool | None = None,
    include: Sequence[str] | None = None,
) -> Call[Attended]:
    """Multi-head attention of vectors `x` [n, d] to themselves or to a `context`, by four projections or a seed that draws them."""
    return post("/v1/attend", locals(), lambda content, _: read_attended(content), has_tensors=True)


def generate(
    input: Input,
    *,
    model: str | None = None,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    weights: Literal["none", "top", "full"] | None = None,
    diagnostics: Literal["all", "none"] | Sequence[str] | None = None,
    per_query: bool | None = None,
    truncate: Literal["error", "left", "right"] | None = None,
) -> Call[Answer[Generated]]:
    """Texts that a model goes on with, and what it looked at meanwhile: `POST /v1/generate`, whose defaults hold.

    `stream` takes the same arguments and gives each token as it comes.
    """
    return post("/v1/generate", locals() | {"input": listed(input)}, partial(read_answer, read_generated), has_tensors=True)


def diagnostics(
    input: Input,
    *,
    model: str | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    diagnostics: Literal["all", "none"] | Sequence[str] | None = None,
    truncate: Literal["error", "left", "right"] | None = None,
) -> Call[Answer[Row]]:
    """What the heads measure, a row for each sequence, measure, layer and head, as for a data frame: `POST /v1/diagnostics`."""
    return post("/v1/diagnostics", locals() | {"input": listed(input)}, read_rows)


def read_rows(content: Any, reply: Reply) -> Answer[Row]:
    """The rows, in the answer's order."""
    return read_answer(read_row, {**content, "results": content["rows"]}, reply)


def tokenize(input: str | Sequence[str], *, model: str | None = None, pair: str | None = None) -> Call[Answer[TokenizedText]]:
    """How a model reads texts: `POST /v1/tokenize`."""
    return post("/v1/tokenize", locals(), partial(read_answer, read_tokenized))


def embeddings(input: Input, *, model: str | None = None) -> Call[Answer[Array]]:
    """A vector [d] for each text or list of token ids: `POST /v1/embeddings`."""
    fields = {"input": listed(input), "model": model, "encoding_format": "base64"}
    return post("/v1/embeddings", fields, read_embeddings)


def read_embeddings(content: Any, reply: Reply) -> Answer[Array]:
    """The vectors, from the base64 that OpenAI's API has them in."""
    vectors = tuple(decode_vector(each["embedding"]) for each in content["data"])
    usage = Usage(len(vectors), content["usage"]["total_tokens"])
    return Answer(vectors, content["model"], usage, None, reply.request_id)


def decode_vector(data: str) -> Array:
    """Little-endian float32."""
    return np.frombuffer(bytearray(b64decode(data)), np.dtype("<f4"))


def embed_token(
    origins: Sequence[str],
    *,
    routes: Sequence[Route] | None = None,
    models: Sequence[str] | None = None,
    ttl: int | None = None,
) -> Call[EmbedToken]:
    """A token for pages of these origins, for some routes, models and seconds: `POST /v1/embed-tokens`, whose defaults hold."""
    scope = {name: value for name, value in (("routes", routes), ("models", models)) if value is not None}
    return post("/v1/embed-tokens", {"origins": origins, "scope": scope, "ttl": ttl}, lambda content, _: build(EmbedToken, content))


def models() -> Call[tuple[ModelCard, ...]]:
    """The models that are served, the default one first: `GET /v1/models`."""
    return Call("/v1/models", lambda content, _: tuple(build(ModelCard, each) for each in content["data"]))


def health() -> Call[Health]:
    """Whether the server wants requests: `GET /readyz`, asked once. Raises `UnreachableError` where there is none."""
    return Call("/readyz", read_health, expected=frozenset({200, 503}))


def read_health(content: Any, reply: Reply) -> Health:
    """Ready, or the problem that says why not."""
    return Health(ready=reply.status == 200, detail=content.get("detail"))

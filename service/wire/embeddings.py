"""Embeddings as OpenAI's clients ask for them."""

from base64 import b64encode
from typing import Annotated, Any, Literal, cast

from pydantic import ConfigDict, Field

from kqv import Analysis, InputError, Job, Model, Selection
from service.settings import Settings
from service.wire.answers import Answer
from service.wire.requests import Input, ModelId
from service.wire.tensors import memory_of, to_array
from service.wire.values import IDS, LIST, TEXT, Items, Wire, one_of, sequence_form
from service.work.reading import read_sequences

Embedded = Annotated[
    Annotated[str, TEXT] | Annotated[Items[int], IDS],
    one_of(sequence_form, "a text or a list of token ids"),
]
Embeddable = Annotated[
    Annotated[str, TEXT] | Annotated[Items[int], IDS] | Annotated[Annotated[Items[Embedded], Field(min_length=1)], LIST],
    one_of(sequence_form, "a text, a list of texts, a list of token ids, or a list of such lists"),
]


class EmbeddingsRequest(Wire):
    """Texts to be made into vectors, in OpenAI's terms."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"input": "The cat sat on the mat."},
                {"input": ["The cat sat.", "A dog ran."], "encoding_format": "base64"},
                {"input": [101, 1996, 4937, 102]},
            ]
        }
    )

    model: ModelId | None = None
    """Id of the model; the server's default without it."""
    input: Embeddable
    """A text or a list of token ids, or a list of such."""
    encoding_format: Literal["float", "base64"] = "float"
    """A vector as a list, or as the base64 of its little-endian float32."""
    dimensions: int | None = Field(default=None, ge=1)
    """How long the vectors should be: as long as they are, since none of these models was trained for another length."""
    user: str | None = None
    """Not looked at."""


class Embedding(Answer):
    """The vector of one text."""

    object: Literal["embedding"] = "embedding"
    index: int
    """Place of the text in the request."""
    embedding: list[float] | str
    """What `/v1/analyze` calls `pooled`."""


class EmbeddingsUsage(Answer):
    """What the request amounted to."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(Answer):
    """A vector for each text, in the request's order."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    """Id of the model that answered."""
    usage: EmbeddingsUsage


class OpenAIErrorFields(Answer):
    """What went wrong."""

    message: str
    """What went wrong here, and what to do."""
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None
    """The field at fault."""
    code: str | None


class OpenAIError(Answer):
    """An error on the routes of OpenAI's protocol."""

    error: OpenAIErrorFields


def read_embeddings(body: EmbeddingsRequest, model: Model, settings: Settings) -> list[Job]:
    """A job for each text. Raises `InputError` at the first wrong one, and for a length that the vectors don't have."""
    d_model = model.config.d_model
    if body.dimensions not in (None, d_model):
        raise InputError(f"the vectors of {model.id} have {d_model} dimensions, always; leave dimensions out", ("dimensions",))
    selection = Selection(weights="none", diagnostics="none", outputs=("pooled",))
    return [Job(sequence, selection) for sequence in read_sequences(cast(Input, body.input), model, "error", settings)]


def embedding_fields(index: int, analysis: Analysis, encoding_format: Literal["float", "base64"]) -> dict[str, Any]:
    """One text's part of the answer."""
    vector = analysis.pooled
    assert vector is not None  # it was selected
    embedding = vector if encoding_format == "float" else b64encode(memory_of(to_array(vector))).decode()
    return {"object": "embedding", "index": index, "embedding": embedding}

"""Answers of the protocol, as they are on the wire."""

from typing import Any, Literal

from service.wire.answers import Answer


class ServerMetadata(Answer):
    """What answers here."""

    name: str
    version: str
    extensions: list[str]
    """Parts of the protocol, beyond its core, that there are."""


class Live(Answer):
    """The process lives."""

    live: Literal[True] = True


class Ready(Answer):
    """The server, or a model, wants requests."""

    ready: Literal[True] = True


class TensorMetadata(Answer):
    """An input or output of a model."""

    name: str
    datatype: str
    shape: list[int]
    """-1 for any size."""


class ModelMetadata(Answer):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    """Exactly one of `text`, `input_ids` and `embeddings`, and what may stand beside it."""
    outputs: list[TensorMetadata]
    """Called by their paths in a result of /v1/analyze."""


class ConfigTensor(Answer):
    """An input or output, in Triton's terms."""

    name: str
    data_type: str
    dims: list[int]
    optional: bool = False


class StringValue(Answer):
    """A parameter of a config."""

    string_value: str


class ModelConfiguration(Answer):
    """A model in Triton's terms."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    """0: shapes are whole, their first dimension being the sequences."""
    input: list[ConfigTensor]
    output: list[ConfigTensor]
    parameters: dict[str, StringValue]


class StatisticDuration(Answer):
    """How often, and how long in all."""

    count: int
    ns: int


class ModelStatistic(Answer):
    """What has been asked of a model by this protocol since the server started."""

    name: str
    version: str
    last_inference: int
    """Milliseconds since 1970; 0 for never."""
    inference_count: int
    """Sequences."""
    execution_count: int
    """Batches that they were in, each counted once a request."""
    inference_stats: dict[str, StatisticDuration]
    """By what became of the requests, and by stage."""
    batch_stats: list[Any]
    """Empty: a batch has no size of its own, sequences come and go."""


class StatisticsList(Answer):
    """Of each model."""

    model_stats: list[ModelStatistic]


class IndexedModel(Answer):
    """A model in the index."""

    name: str
    version: str
    state: Literal["READY"] = "READY"
    reason: str = ""


class InferOutputAnswer(Answer):
    """A tensor out."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None
    """`binary_data_size`: how many bytes after the JSON are its elements."""
    data: list[Any] | None = None
    """Its elements in one list, null for what is no number; absent where they come as bytes."""


class InferAnswer(Answer):
    """The outputs that were asked for, in that order."""

    model_name: str
    model_version: str
    id: str | None = None
    """The request's."""
    outputs: list[InferOutputAnswer]


class OpenInferenceError(Answer):
    """An error on the routes of Open Inference Protocol."""

    error: str
    """What went wrong here, and what to do."""

"""An inference request: JSON, and after it perhaps the bytes of its tensors."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
from starlette.datastructures import Headers
from starlette.requests import Request

from kqv import InputError
from service.errors import FieldError, InvalidError, located
from service.http.bodies import JsonRoute, max_values, parse_json, read_body
from service.oip.tensors import DATATYPES, Value, from_binary, from_data
from service.wire.values import Items, Number, Wire
from service.work.threads import run_off_loop

HEADER = "inference-header-content-length"
"""How many bytes of the body are JSON; the tensors' own come after them."""

Parameter = bool | int | Number | str
Parameters = Annotated[dict[str, Parameter], Field(max_length=32)]
Size = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(max_length=256)]


class InferInput(Wire):
    """A tensor in."""

    name: Name
    """One of the model's inputs."""
    shape: Annotated[list[Size], Field(min_length=1, max_length=8)]
    """Its dimensions."""
    datatype: Annotated[str, Field(json_schema_extra={"enum": [*DATATYPES, "BYTES"]})]
    """Type of its elements."""
    parameters: Parameters = {}
    """`binary_data_size`: how many bytes after the JSON are its elements."""
    data: Items[Any] | None = None
    """Its elements, in one list or nested; absent where they come as bytes."""


class InferOutput(Wire):
    """A tensor that is wanted."""

    name: Name
    """One of the model's outputs."""
    parameters: Parameters = {}
    """`binary_data`: whether it comes as bytes after the JSON."""


class InferRequest(Wire):
    """What to run a model on, and what to give of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["The cat sat."]}]},
                {
                    "id": "7",
                    "parameters": {"layers": "-1", "timeout": 2_000_000},
                    "inputs": [
                        {"name": "input_ids", "shape": [2, 3], "datatype": "INT64", "data": [101, 1996, 102, 101, 102, 0]},
                        {"name": "attention_mask", "shape": [2, 3], "datatype": "INT64", "data": [[1, 1, 1], [1, 1, 0]]},
                    ],
                    "outputs": [{"name": "pooled"}, {"name": "attention.encoder.weights"}],
                },
            ]
        }
    )

    id: Annotated[str, Field(max_length=1024)] = ""
    """Echoed."""
    parameters: Parameters = {}
    """`timeout` in microseconds; `binary_data_output`; `layers` and `heads`, `queries` and `keys` as numbers between commas;
    `truncate`."""
    inputs: Annotated[Items[InferInput], Field(min_length=1, max_length=16)]
    """The tensors to run on."""
    outputs: Annotated[Items[InferOutput], Field(max_length=256)] | None = None
    """The tensors wanted; without it what `/v1/analyze` gives by default."""
    _binary: bytes = PrivateAttr(b"")

    def values(self) -> dict[str, Value]:
        """The tensors by their names. Raises `InputError` where one's elements are not there, twice there, or of another shape."""
        values: dict[str, Value] = {}
        rest = memoryview(self._binary)
        for index, given in enumerate(self.inputs):
            with located("inputs", index):
                if given.name in values:
                    raise InputError(f"the input {given.name!r} is given twice", ("name",))
                size = binary_size(given)
                values[given.name], rest = read_value(given, size, rest)
        if rest:
            raise InputError(f"{len(rest)} bytes are left after the last tensor: the sizes don't add up to the body's", ("inputs",))
        return values


def read_value(given: InferInput, size: int | None, rest: memoryview) -> tuple[Value, memoryview]:
    """A tensor, and the bytes that are left for the others."""
    if given.datatype not in {*DATATYPES, "BYTES"}:
        raise InputError(f"there is no datatype {given.datatype!r}; there are {', '.join(DATATYPES)} and BYTES", ("datatype",))
    if size is None:
        if given.data is None:
            raise InputError("this has neither data nor binary_data_size", ("data",))
        return from_data(given.data, given.datatype, given.shape), rest
    if given.data is not None:
        raise InputError("this has both data and binary_data_size", ("data",))
    if size > len(rest):
        message = f"binary_data_size is {size}, but only {len(rest)} bytes are left of the body"
        raise InputError(message, ("parameters", "binary_data_size"))
    return from_binary(rest[:size], given.datatype, given.shape), rest[size:]


def binary_size(given: InferInput) -> int | None:
    """How many bytes are the tensor's. Raises `InputError` for what is no size, and for other parameters."""
    for name in given.parameters:
        if name.startswith("shared_memory"):
            raise InputError("there is no shared memory here; send the elements", ("parameters", name))
        if name != "binary_data_size":
            raise InputError("an input has no parameter but binary_data_size", ("parameters", name))
    size = given.parameters.get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise InputError(f"a number of bytes is a whole number from 0 up, not {size!r}", ("parameters", "binary_data_size"))
    return size


class IndexRequest(Wire):
    """Which models to list."""

    ready: bool = False
    """Only those that are ready."""


class InferRoute(JsonRoute):
    """A route whose body is an `InferRequest`. Its media type is not looked at: `tritonclient` sends none."""

    async def read(self, request: Request, model: type[BaseModel]) -> BaseModel:
        """The request, parsed off the loop where it is long."""
        body = await read_body(request)
        return await run_off_loop(request.state.is_long, parse_infer, request.headers, body, max_values(request))


def parse_infer(headers: Headers, body: bytes, max_values: int) -> InferRequest:
    """The JSON at the beginning of the body, with the rest kept for its tensors. Raises `MalformedError`, `InvalidError`."""
    length = json_length(headers, len(body))
    parsed = parse_json(InferRequest, body[:length], max_values)
    assert isinstance(parsed, InferRequest)
    parsed._binary = body[length:]
    return parsed


def json_length(headers: Headers, whole: int) -> int:
    """How many bytes are JSON: all of them, unless the header says otherwise. Raises `InvalidError` for what it can't be."""
    given = headers.getlist(HEADER)
    if not given:
        return whole
    if len(given) > 1 or not re.fullmatch("[0-9]{1,18}", given[0]) or int(given[0]) > whole:
        said = ", ".join(given)[:64]
        message = f"this is how many bytes of the body are JSON, a number from 0 to {whole} here, not {said!r}"
        raise InvalidError([FieldError(("header", "Inference-Header-Content-Length"), message)])
    return int(given[0])

"""From the engine's results to bytes: JSON, with tensors as lists or as base64, or a file of tensors."""

from binascii import b2a_base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from starlette.datastructures import Headers
from torch import Tensor

from kqv import Analysis, Generated, GroupAnalysis
from kqv.config import Group
from service.wire.negotiation import negotiate
from service.wire.tensor_file import write_file
from service.wire.tensors import Array, memory_of, to_array

Encoding = Literal["lists", "base64"]
Part = bytes | memoryview

BYTES_PER_NUMBER = 14
"""A float32 in JSON with its comma: 11 to 12 bytes, up to 13.5 in the maps of long sequences, whose weights begin with zeros."""

CHUNK = 1 << 17
"""Numbers encoded at once: orjson holds the interpreter's lock throughout a call, so other threads get their turn between two."""

BASE64_CHUNK = 3 << 17
"""Bytes likewise; a multiple of 3, so that no part but the last one is padded."""

PLACE = b"\0"
"""Stands where a large tensor was left out: a byte that JSON has nowhere else, since in its texts it is escaped."""


@dataclass(frozen=True)
class Form:
    """How an answer is written."""

    media_type: str
    bytes_per_number: int
    """About as many, to tell an answer's length before it is there; half the numbers of "top" weights are indices of 8 bytes."""
    encode: Callable[[object], list[Part]]
    """The answer's parts, in order."""


def analysis_fields(analysis: Analysis) -> dict[str, Any]:
    """One sequence's part of the answer: the fields of `Analysis` by their names, less those that weren't asked for."""
    return present(vars(analysis) | {"attention": attention_fields(analysis.attention)})


def generated_fields(generated: Generated) -> dict[str, Any]:
    """Likewise of a text that was written."""
    return present(vars(generated) | {"attention": attention_fields(generated.attention)})


def attention_fields(attention: Mapping[Group, GroupAnalysis]) -> dict[Group, Any] | None:
    """The fields of each kind of attention; None where there are none."""
    fields = {group: present(vars(found) | {"diagnostics": found.diagnostics or None}) for group, found in attention.items()}
    return fields or None


def present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}


def encode(content: object, encoding: Encoding = "lists") -> bytes:
    """The same as bytes, for what isn't large."""
    return b"".join(encode_parts(content, encoding))


def encode_parts(content: object, encoding: Encoding = "lists") -> list[Part]:
    """JSON of anything that holds tensors, in parts that are never joined: an answer of tens of megabytes is in memory once.

    Large tensors are left out at first, and written chunk by chunk where they belong. In lists, NaN (undefined) and infinities
    (masked) become null.
    """
    left_out: list[Iterator[Part]] = []
    write = HOOKS[encoding]
    rest = orjson.dumps(content, lambda value: write(tensor_in(value), left_out), orjson.OPT_SERIALIZE_NUMPY)
    parts: list[Part] = []
    start = 0
    for chunks in left_out:
        place = rest.index(PLACE, start)
        parts += [rest[start:place], *chunks]
        start = place + len(PLACE)
    return [*parts, rest[start:]]


def to_lists(tensor: Tensor, left_out: list[Iterator[Part]]) -> Array | orjson.Fragment:
    """What orjson makes of a tensor: an array that it knows how to write, or for a large one the place of its chunks."""
    array = to_array(tensor)
    if array.size <= CHUNK:
        return array
    left_out.append(list_chunks(array))
    return orjson.Fragment(PLACE)


def to_base64(tensor: Tensor, left_out: list[Iterator[Part]]) -> orjson.Fragment:
    """A tensor as requests may have it too: an object with dtype, shape and data."""
    array = to_array(tensor)
    data, shape = PLACE, orjson.dumps(array.shape)
    if array.nbytes <= BASE64_CHUNK:
        data = b"".join(base64_chunks(array))
    else:
        left_out.append(base64_chunks(array))
    return orjson.Fragment(b'{"dtype":"%b","shape":%b,"data":"%b"}' % (array.dtype.name.encode(), shape, data))


HOOKS: dict[Encoding, Callable[[Tensor, list[Iterator[Part]]], Any]] = {"lists": to_lists, "base64": to_base64}


def tensor_in(value: object) -> Tensor:
    """The value, if it is one that orjson has to be helped with."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{type(value).__name__} has no form in JSON")
    return value


def list_chunks(array: Array) -> Iterator[Part]:
    """The JSON of a large array: as many rows at once as make up a chunk, less their brackets, or each row in chunks of its own."""
    rows = max(1, CHUNK * len(array) // array.size)
    yield b"["
    for start in range(0, len(array), rows):
        part = array[start : start + rows]
        yield b"," if start else b""
        if part.size > CHUNK:
            yield from list_chunks(part[0])
        else:
            yield memoryview(orjson.dumps(part, option=orjson.OPT_SERIALIZE_NUMPY))[1:-1]
    yield b"]"


def base64_chunks(array: Array) -> Iterator[Part]:
    """The base64 of an array."""
    memory = memory_of(array)
    for start in range(0, len(memory), BASE64_CHUNK):
        yield b2a_base64(memory[start : start + BASE64_CHUNK], newline=False)


LISTS = Form("application/json", BYTES_PER_NUMBER, encode_parts)
BASE64 = Form("application/json", 8, lambda content: encode_parts(content, "base64"))
FILE = Form("application/x-safetensors", 6, write_file)
JSON_FORMS: dict[Encoding, Form] = {"lists": LISTS, "base64": BASE64}


def choose_form(headers: Headers, encoding: Encoding) -> Form:
    """The form of the answer that the caller likes best. Raises `NotAcceptableError` where there is none such."""
    offered = (JSON_FORMS[encoding], FILE)
    chosen = negotiate(headers, [form.media_type for form in offered])
    return next(form for form in offered if form.media_type == chosen)

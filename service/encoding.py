"""From the engine's results to JSON."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson
import torch
from torch import Tensor

from kqv import Analysis, Generated, GroupAnalysis
from kqv.config import Group

BYTES_PER_NUMBER = 14
"""A float32 in JSON with its comma: 11 to 12 bytes, up to 13.5 in the maps of long sequences, whose weights begin with zeros."""

CHUNK = 1 << 17
"""Numbers encoded at once: orjson holds the interpreter's lock throughout a call, so other threads get their turn between two."""

Array = np.ndarray[Any, Any]


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


def encode(content: object) -> bytes:
    """JSON of anything that holds tensors; NaN (undefined) and infinities (masked) become null."""
    return orjson.dumps(content, encode_tensor, orjson.OPT_SERIALIZE_NUMPY)


def encode_tensor(value: object) -> Array | orjson.Fragment:
    """What orjson makes of a tensor: an array that it knows how to write, or for a large one what it wrote chunk by chunk."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{type(value).__name__} has no form in JSON")
    array = to_array(value)
    return array if array.size <= CHUNK else orjson.Fragment(b"".join(chunks(array)))


def to_array(tensor: Tensor) -> Array:
    """In the machine's memory, in order, in a type that numpy has."""
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return np.ascontiguousarray(tensor.to("cpu", torch.float32 if half else tensor.dtype).numpy())


def chunks(array: Array) -> Iterator[bytes]:
    """The JSON of a large array: as many rows at once as make up a chunk, or each row in chunks of its own."""
    rows = max(1, CHUNK * len(array) // array.size)
    yield b"["
    for start in range(0, len(array), rows):
        part = array[start : start + rows]
        yield b"," if start else b""
        if part.size > CHUNK:
            yield from chunks(part[0])
        else:
            yield orjson.dumps(part, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    yield b"]"

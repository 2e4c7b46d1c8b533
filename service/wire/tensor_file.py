"""Requests and answers as safetensors files: tensors by the path of their field, all other fields as JSON in the metadata."""

import json
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from itertools import pairwise
from typing import Any

import orjson
import torch
from safetensors import SafetensorError, deserialize
from torch import Tensor

from kqv import InputError
from service.errors import Location, MalformedError
from service.wire.tensors import Array, from_bytes, memory_of, name_of, to_array

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {name_of(dtype): name for name, dtype in DTYPES.items()}
ALIGNMENT = 8
"""The header ends at a multiple of this, so that no reader has to copy for the sake of alignment."""


def read_file(body: bytes) -> dict[str, Any]:
    """The request that a file holds, as its JSON would be, with tensors in it; those of one number or one row become such.

    Raises `MalformedError` for what is no such file, `InputError` for a tensor that has no place in the request.
    """
    try:
        found = deserialize(body)  # checks the header against the bytes: their number, overlaps, holes, and each shape
    except SafetensorError as error:
        raise MalformedError(
            f"the body is not a safetensors file: {str(error).removeprefix('Error while deserializing: ')}"
        ) from error
    request = read_rest(metadata_of(body).get("request", "{}"))
    for name, stored in sorted(found, key=lambda each: natural(each[0])):
        if stored["dtype"] not in DTYPES:
            raise InputError(f"{stored['dtype']} is not read here; send one of {', '.join(DTYPES)}", path_of(name))
        tensor = from_bytes(stored["data"], DTYPES[stored["dtype"]], stored["shape"])
        insert(request, name, tensor if tensor.ndim > 1 else tensor.tolist())
    return request


def metadata_of(body: bytes) -> Mapping[str, str]:
    """The texts in the header of a file that has been checked. Raises `MalformedError` for a name that stands there twice."""
    metadata: Mapping[str, str] = json.loads(header_of(body).decode(), object_pairs_hook=once_each).get("__metadata__") or {}
    return metadata


def once_each(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a header. Raises `MalformedError` for a name that it has twice: of two tensors, other readers take the first."""
    found = dict(pairs)
    if len(found) < len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise MalformedError(f"the body is not a safetensors file: its header has {name[:64]!r} twice")
    return found


def header_of(body: bytes) -> bytes:
    """The header of a file, or what would be it."""
    return body[8 : 8 + int.from_bytes(body[:8], "little")]


def read_rest(text: str) -> dict[str, Any]:
    """The fields that are no tensors. Raises `MalformedError` for what is no JSON object."""
    try:
        rest = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise MalformedError(f'__metadata__["request"] of the file is not JSON: {error}') from error
    if not isinstance(rest, dict):
        raise MalformedError('__metadata__["request"] of the file is an object, whose fields are those of the request')
    return rest


def natural(name: str) -> tuple[tuple[bool, int, str], ...]:
    """A key that sorts paths by their parts, indices by their value, so that a list grows in order."""
    return tuple((not is_index(part), int(part) if is_index(part) else 0, part) for part in name.split("."))


def is_index(part: str) -> bool:
    return part.isascii() and part.isdecimal() and len(part) < 10


def path_of(name: str) -> Location:
    """The parts of a tensor's name, as an error's location has them."""
    return tuple(int(part) if is_index(part) else part for part in name.split("."))


def insert(request: dict[str, Any], name: str, value: object) -> None:
    """Put a value at its path, such as `input.0.embeddings`; what is missing on the way is made. Raises `InputError`."""
    path = path_of(name)
    place: Any = request
    for part, following in pairwise(path):
        if not has(place, part, path):
            put(place, part, [] if isinstance(following, int) else {})
        place = place[part]
    if has(place, path[-1], path):
        raise InputError("this is given twice: as a tensor, and in the JSON of the metadata", path)
    put(place, path[-1], value)


def has(place: object, part: str | int, path: Location) -> bool:
    """Whether there is anything at this part of a path. Raises `InputError` where nothing could be put there either."""
    match place, part:
        case dict(), str():
            return part in place
        case list(), int() if part <= len(place):
            return part < len(place)
        case list(), _:
            raise InputError(f"this goes through a list of {len(place)}, whose next index is {len(place)}, not {part}", path)
    raise InputError("a tensor is called by the path of its field, as in input.0.embeddings, and this leads nowhere", path)


def put(place: Any, part: str | int, value: object) -> None:
    if isinstance(place, list):
        place.append(value)
    else:
        place[part] = value


def write_file(content: object, key: str = "response") -> list[bytes | memoryview]:
    """The file of an answer that holds tensors, in parts: its header, and the memory of each tensor, which isn't copied."""
    tensors: dict[str, Array] = {}
    rest = split(content, "", tensors)
    ordered = sorted(tensors.items(), key=lambda each: (-each[1].itemsize, each[0]))  # widest first, so that each is aligned
    header: dict[str, Any] = {"__metadata__": {key: orjson.dumps(rest).decode()}}
    end = 0
    for name, array in ordered:
        start, end = end, end + array.nbytes
        header[name] = {"dtype": NAMES[array.dtype.name], "shape": array.shape, "data_offsets": (start, end)}
    text = orjson.dumps(header)
    text += b" " * (-len(text) % ALIGNMENT)
    return [struct.pack("<Q", len(text)) + text, *(memory_of(array) for _, array in ordered)]


def split(content: object, path: str, tensors: dict[str, Array]) -> object:
    """The content without the tensors among its fields, which are put into `tensors` by their paths."""
    if isinstance(content, list):
        return [split(each, f"{path}{index}.", tensors) for index, each in enumerate(content)]
    fields = vars(content) if is_dataclass(content) else content
    if not isinstance(fields, dict):
        return content
    tensors |= {f"{path}{name}": to_array(value) for name, value in fields.items() if isinstance(value, Tensor)}
    return {name: split(value, f"{path}{name}.", tensors) for name, value in fields.items() if not isinstance(value, Tensor)}

"""Tensors on their way: numpy arrays to and from safetensors files, and base64 in JSON."""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from safetensors.numpy import save

from service.client.results import Array

FILE, JSON = "application/x-safetensors", "application/json"

DTYPES: dict[str, Any] = {"F64": np.float64, "F32": np.float32, "I64": np.int64, "I32": np.int32, "U8": np.uint8, "BOOL": np.bool_}
"""Those that answers have, and a few beside them."""


def read_content(media_type: str, body: bytes | bytearray) -> Any:
    """An answer with its tensors as arrays, which share the memory of the body. Raises `ValueError` for what is no such answer."""
    if media_type.partition(";")[0] == FILE:
        return read_file(body)
    return with_arrays(orjson.loads(body))


def read_file(body: bytes | bytearray) -> Any:
    """The response that a file of tensors holds."""
    start = 8 + int.from_bytes(body[:8], "little")
    header = orjson.loads(memoryview(body)[8:start])
    response = orjson.loads(header.pop("__metadata__")["response"])
    for name, stored in header.items():
        first, last = stored["data_offsets"]
        dtype = np.dtype(DTYPES[stored["dtype"]])
        elements = np.frombuffer(body, dtype, (last - first) // dtype.itemsize, start + first if last > first else 0)
        insert(response, name.split("."), elements.reshape(stored["shape"]))
    return response


def insert(response: Any, path: list[str], array: Array) -> None:
    """Put a tensor at its place, such as `results.0.hidden`."""
    *outer, name = path
    for part in outer:
        response = response[int(part)] if isinstance(response, list) else response[part]
    response[name] = array


def with_arrays(value: Any) -> Any:
    """JSON with arrays for the objects that stand for tensors."""
    match value:
        case {"dtype": str(dtype), "shape": shape, "data": str(data)}:
            return np.frombuffer(bytearray(b64decode(data)), np.dtype(dtype)).reshape(shape)
        case dict():
            return {name: with_arrays(each) for name, each in value.items()}
        case [dict(), *_]:
            return [with_arrays(each) for each in value]
    return value


def write_json(fields: Mapping[str, Any]) -> bytes:
    """The body of a request, with tensors as base64."""
    return orjson.dumps(plain(fields), option=orjson.OPT_SERIALIZE_NUMPY)


def plain(value: Any) -> Any:
    """JSON with objects for the arrays that stand for tensors."""
    match value:
        case Mapping():
            return {name: plain(each) for name, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
    if not is_tensor(value):
        return value
    array = np.asarray(value)
    if array.ndim < 2:
        return array.tolist()
    return {"dtype": array.dtype.name, "shape": array.shape, "data": b64encode(little_endian(array).data).decode()}


def is_tensor(value: object) -> bool:
    """Whether it is an array, or becomes one: a tensor of torch, say."""
    return hasattr(value, "__array__") and not isinstance(value, np.generic)


def little_endian(array: Array) -> Array:
    """As it goes over the wire: in order, and with the lowest byte first."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<"))


def write_file(fields: Mapping[str, Any]) -> bytes | None:
    """The body of a request as a file of tensors; None where it has none."""
    tensors: dict[str, Array] = {}
    rest = separate(fields, "", tensors)
    return save(tensors, {"request": write_json(rest).decode()}) if tensors else None


def separate(value: Any, path: str, tensors: dict[str, Array]) -> Any:
    """The fields without the tensors among them, which are put into `tensors` by their paths."""
    match value:
        case Mapping():
            tensors |= {f"{path}{name}": little_endian(np.asarray(each)) for name, each in value.items() if is_large(each)}
            return {name: separate(each, f"{path}{name}.", tensors) for name, each in value.items() if not is_large(each)}
        case list() | tuple():
            return [separate(each, f"{path}{index}.", tensors) for index, each in enumerate(value)]
    return value


def is_large(value: object) -> bool:
    """Whether it is a tensor of rows; one of a single row is a list to the server anyway."""
    return is_tensor(value) and np.ndim(value) > 1  # type: ignore[arg-type]

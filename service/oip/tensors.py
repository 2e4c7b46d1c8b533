"""Tensors as the protocol has them: a datatype, a shape, and elements as JSON or as little-endian bytes."""

import math
import struct
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kqv import InputError
from service.wire.tensors import Array, from_bytes

DATATYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "UINT16": torch.uint16,
    "UINT32": torch.uint32,
    "UINT64": torch.uint64,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "FP16": torch.float16,
    "BF16": torch.bfloat16,
    "FP32": torch.float32,
    "FP64": torch.float64,
}
"""All but BYTES, whose elements are texts."""

FLOATS = frozenset({"FP16", "BF16", "FP32", "FP64"})
LENGTH = struct.Struct("<I")
"""What stands before each element of BYTES."""

Texts = Array
"""Of objects, which are texts."""
Value = Tensor | Texts


def from_data(data: Sequence[Any], datatype: str, shape: Sequence[int]) -> Value:
    """A tensor from the elements in JSON, in one list or nested. Raises `InputError` for what is not of its type and shape."""
    elements = flatten(data)
    check_kinds(elements, datatype)
    if len(elements) != math.prod(shape):
        raise InputError(f"data has {len(elements)} elements, but the shape {list(shape)} has {math.prod(shape)}", ("data",))
    if datatype == "BYTES":
        return np.array(elements, object).reshape(shape)
    try:
        return torch.tensor(elements, dtype=DATATYPES[datatype]).reshape(tuple(shape))
    except (RuntimeError, OverflowError, ValueError, TypeError) as error:
        raise InputError(f"data holds a number that {datatype} can't", ("data",)) from error


def flatten(data: Sequence[Any]) -> Sequence[Any]:
    """The elements in one list, row by row; where lists stand beside elements, the lists stay, and are refused as elements."""
    while data and all(type(each) is list for each in data):
        data = list(chain.from_iterable(data))
    return data


def check_kinds(elements: Sequence[Any], datatype: str) -> None:
    """Raise `InputError` unless all elements are what the datatype is made of: true is no number, and 1.5 no index."""
    allowed: set[type] = {int, float} if datatype in FLOATS else {{"BYTES": str, "BOOL": bool}.get(datatype, int)}
    wrong = {*map(type, elements)} - allowed
    if wrong:
        kinds = " and ".join(sorted(kind.__name__ for kind in allowed))
        raise InputError(f"elements of {datatype} are {kinds} in JSON, not {min(kind.__name__ for kind in wrong)}", ("data",))


def from_binary(data: memoryview, datatype: str, shape: Sequence[int]) -> Value:
    """A tensor from bytes. Raises `InputError` where their number is not the shape's."""
    if datatype == "BYTES":
        texts = list(read_texts(data))
        if len(texts) != math.prod(shape):
            raise InputError(f"the binary data has {len(texts)} elements, but the shape {list(shape)} has {math.prod(shape)}")
        return np.array(texts, object).reshape(shape)
    dtype = DATATYPES[datatype]
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        message = f"binary_data_size is {len(data)}, but {datatype} of shape {list(shape)} takes {expected} bytes"
        raise InputError(message, ("parameters", "binary_data_size"))
    return from_bytes(bytearray(data), dtype, list(shape))


def read_texts(data: memoryview) -> Iterator[str]:
    """The elements of BYTES. Raises `InputError` where one is cut, or no UTF-8."""
    start = 0
    while start < len(data):
        end = start + LENGTH.size
        if end <= len(data):
            end += LENGTH.unpack_from(data, start)[0]
        if end > len(data):
            raise InputError("the last element of BYTES is cut: each is its length, as 4 bytes, and then as many bytes of text")
        try:
            yield str(data[start + LENGTH.size : end], "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"an element of BYTES is not UTF-8: {error.reason}") from error
        start = end


def write_texts(texts: Texts) -> bytes:
    """The elements of BYTES as bytes."""
    encoded = [text.encode() for text in texts.reshape(-1)]
    return b"".join(chain.from_iterable((LENGTH.pack(len(text)), text) for text in encoded))

"""Tensors as requests carry them: nested lists, base64 with a type and a shape, or bytes of a file of tensors."""

import math
from base64 import b64decode
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import AfterValidator, Field, InstanceOf
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError
from torch import Tensor

from kqv import InputError
from service.wire.values import BYTES, OBJECT, ROWS, STACK, TEXT, Items, Number, Rows, Wire, nested_form, one_of

Location = tuple[str | int, ...]
Array = np.ndarray[Any, Any]
Size = Annotated[int, Field(ge=0)]
Dtype = Literal[
    "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"
]


class EncodedTensor(Wire):
    """A tensor as bytes: shorter than its nested lists, and read much faster."""

    dtype: Dtype
    """Type of one element, little-endian; a bool is one byte."""
    shape: Annotated[list[Size], Field(min_length=2, max_length=3)]
    """Its dimensions."""
    data: str
    """The elements, row-major, in base64."""


class EncodedMatrix(EncodedTensor):
    """A matrix as bytes: shorter than its nested lists, and read much faster."""

    shape: Annotated[list[Size], Field(min_length=2, max_length=2)]
    """Its dimensions."""


Nested = list[list[float]] | list[list[list[float]]]


def of_dimensions(*allowed: int) -> AfterValidator:
    """Refuses a tensor of any other number of dimensions."""

    def check(tensor: Tensor) -> Tensor:
        if tensor.ndim not in allowed:
            message = f"this has {tensor.ndim} dimensions, and not {' or '.join(map(str, allowed))}"
            raise PydanticCustomError("dimensions", "{message}", {"message": message})
        return tensor

    return AfterValidator(check)


Filed = SkipJsonSchema[InstanceOf[Tensor]]
"""A tensor that came in a file, which is none of JSON's values."""
FiledMatrix = Annotated[Filed, of_dimensions(2)]
Matrix = Annotated[
    Annotated[Rows[Number], ROWS] | Annotated[EncodedMatrix, OBJECT] | Annotated[FiledMatrix, BYTES],
    one_of(nested_form, "a matrix of numbers [[…], …], or an object with dtype, shape and data"),
]
Matrices = Annotated[
    Annotated[Rows[Number], ROWS]
    | Annotated[Items[Rows[Number]], STACK]
    | Annotated[EncodedTensor, OBJECT]
    | Annotated[Filed, of_dimensions(2, 3), BYTES],
    one_of(nested_form, "a matrix [n, d], a stack of them [H, n, d], or an object with dtype, shape and data"),
]
AttentionMask = Annotated[
    Annotated[Literal["none", "causal"], TEXT]
    | Annotated[Rows[bool], ROWS]
    | Annotated[EncodedMatrix, OBJECT]
    | Annotated[FiledMatrix, BYTES],
    one_of(nested_form, '"none", "causal", or booleans [n, m], true where the query may see the key'),
]


def floats(given: Nested | EncodedTensor | Tensor, *location: str | int) -> Tensor:
    """As float32. Raises `InputError`, located from `location` on. What float32 can't hold becomes infinite, and is refused where
    values are judged."""
    if isinstance(given, list):
        with np.errstate(over="ignore"):
            return torch.from_numpy(even(given, location).astype(np.float32))
    tensor = decode(given, location)
    if tensor.dtype == torch.bool:
        raise InputError("numbers are floats or integers, not bool", (*location, "dtype"))
    return tensor.to(torch.float32)


def booleans(given: list[list[bool]] | EncodedTensor | Tensor, *location: str | int) -> Tensor:
    """As booleans. Raises `InputError`, located from `location` on."""
    if isinstance(given, list):
        return torch.from_numpy(even(given, location).astype(np.bool_))
    tensor = decode(given, location)
    if tensor.dtype != torch.bool:
        raise InputError(f"a mask is bool, not {name_of(tensor.dtype)}", (*location, "dtype"))
    return tensor


def decode(given: EncodedTensor | Tensor, location: Location) -> Tensor:
    """The elements in their shape."""
    if isinstance(given, Tensor):
        return given
    try:
        data = b64decode(given.data, validate=True)
    except ValueError as error:
        raise InputError(f"data is not base64: {error}", (*location, "data")) from error
    dtype: torch.dtype = getattr(torch, given.dtype)
    expected = math.prod(given.shape) * dtype.itemsize
    if len(data) != expected:
        message = f"data holds {len(data)} bytes, but {given.dtype} of shape {given.shape} takes {expected}"
        raise InputError(message, (*location, "data"))
    return from_bytes(data, dtype, given.shape)


def from_bytes(data: bytes | bytearray, dtype: torch.dtype, shape: list[int]) -> Tensor:
    """Little-endian, row-major elements as a tensor; a view of the bytes where they may be written to."""
    if not data:
        return torch.empty(shape, dtype=dtype)
    writable = data if isinstance(data, bytearray) else bytearray(data)  # torch warns of any other
    # Any byte but 0 is true; torch would take it as it is.
    elements = (
        torch.frombuffer(writable, dtype=torch.uint8) != 0 if dtype == torch.bool else torch.frombuffer(writable, dtype=dtype)
    )
    return elements.reshape(shape)


def name_of(dtype: torch.dtype) -> str:
    """As requests and answers call it."""
    return str(dtype).removeprefix("torch.")


def to_array(tensor: Tensor) -> Array:
    """In the machine's memory, in order, in a type that numpy has."""
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    if half or tensor.device.type != "cpu":
        tensor = tensor.to("cpu", torch.float32 if half else tensor.dtype)
    return np.ascontiguousarray(tensor.numpy())


def memory_of(array: Array) -> memoryview:
    """The elements of an array that is in order, as bytes; nothing is copied."""
    return array.reshape(-1).view(np.uint8).data


def even(nested: Nested | list[list[bool]], location: Location) -> Array:
    """Nested lists as an array. Raises `InputError` at the first list that is longer or shorter than the first of its level."""
    check_even(nested, shape_of(nested), location)
    return np.array(nested)


def shape_of(nested: Any) -> tuple[int, ...]:
    """How long the first list of each level is."""
    if not isinstance(nested, list):
        return ()
    return (len(nested), *shape_of(nested[0])) if nested else (0,)


def check_even(nested: list[Any], shape: tuple[int, ...], location: Location) -> None:
    if len(nested) != shape[0]:
        raise InputError(f"ragged: this list is {len(nested)} long, the first one {shape[0]}", location)
    if len(shape) > 1:
        for index, inner in enumerate(nested):
            check_even(inner, shape[1:], (*location, index))

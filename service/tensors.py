"""Tensors as requests carry them: nested lists, or base64 with a type and a shape."""

import math
from base64 import b64decode
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from kqv import InputError
from service.wire import OBJECT, ROWS, STACK, TEXT, Items, Number, Rows, Wire, nested_form, one_of

Location = tuple[str | int, ...]
Array = np.ndarray[Any, Any]
Size = Annotated[int, Field(ge=0)]
DTYPES: dict[str, np.dtype[Any]] = {
    "float16": np.dtype("<f2"),
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
    "bool": np.dtype("?"),
}


class EncodedTensor(Wire):
    """A tensor as bytes: shorter than its nested lists, and read much faster."""

    dtype: Literal["float16", "float32", "float64", "bool"]
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
Matrix = Annotated[
    Annotated[Rows[Number], ROWS] | Annotated[EncodedMatrix, OBJECT],
    one_of(nested_form, "a matrix of numbers [[…], …], or an object with dtype, shape and data"),
]
Matrices = Annotated[
    Annotated[Rows[Number], ROWS] | Annotated[Items[Rows[Number]], STACK] | Annotated[EncodedTensor, OBJECT],
    one_of(nested_form, "a matrix [n, d], a stack of them [H, n, d], or an object with dtype, shape and data"),
]
AttentionMask = Annotated[
    Annotated[Literal["none", "causal"], TEXT] | Annotated[Rows[bool], ROWS] | Annotated[EncodedMatrix, OBJECT],
    one_of(nested_form, '"none", "causal", or booleans [n, m], true where the query may see the key'),
]


def floats(given: Nested | EncodedTensor, *location: str | int) -> Tensor:
    """As float32. Raises `InputError`, located from `location` on."""
    array = decode(given, location) if isinstance(given, EncodedTensor) else even(given, location)
    if array.dtype == np.bool_:
        raise InputError("numbers are float16, float32 or float64, not bool", (*location, "dtype"))
    with np.errstate(over="ignore"):  # what float32 can't hold becomes infinite, and is refused where values are judged
        return torch.from_numpy(np.array(array, np.float32))


def booleans(given: list[list[bool]] | EncodedTensor, *location: str | int) -> Tensor:
    """As booleans. Raises `InputError`, located from `location` on."""
    array = decode(given, location) if isinstance(given, EncodedTensor) else even(given, location)
    if array.dtype != np.bool_:
        raise InputError(f"a mask is bool, not {array.dtype}", (*location, "dtype"))
    return torch.from_numpy(array.copy())


def decode(given: EncodedTensor, location: Location) -> Array:
    """The elements in their shape, as a view of the decoded bytes."""
    try:
        data = b64decode(given.data, validate=True)
    except ValueError as error:
        raise InputError(f"data is not base64: {error}", (*location, "data")) from error
    dtype = DTYPES[given.dtype]
    expected = math.prod(given.shape) * dtype.itemsize
    if len(data) != expected:
        message = f"data holds {len(data)} bytes, but {given.dtype} of shape {given.shape} takes {expected}"
        raise InputError(message, (*location, "data"))
    # Any byte but 0 is true; numpy would take it as it is.
    elements = np.frombuffer(data, np.uint8) != 0 if given.dtype == "bool" else np.frombuffer(data, dtype)
    return elements.reshape(given.shape)


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

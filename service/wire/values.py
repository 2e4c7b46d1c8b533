"""What all requests are made of: strict objects, and values that may come in several forms."""

from typing import Annotated, Any, Protocol, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError
from torch import Tensor

TEXT, LIST, OBJECT, BYTES = Tag("[text]"), Tag("[list]"), Tag("[object]"), Tag("[bytes]")
IDS, ROWS, STACK, NUMBER = Tag("[ids]"), Tag("[rows]"), Tag("[stack]"), Tag("[number]")
LONGFORMER, LINFORMER, PERFORMER = Tag("[longformer]"), Tag("[linformer]"), Tag("[performer]")
TAGS = frozenset(form.tag for form in (TEXT, LIST, OBJECT, BYTES, IDS, ROWS, STACK, NUMBER, LONGFORMER, LINFORMER, PERFORMER))
"""The forms that a value may have. pydantic puts them into the path of an error, where they are no part of the request."""

T = TypeVar("T")
Items = Annotated[list[T], Field(fail_fast=True)]
"""A list of which only the first wrong item is named: a body of millions of them would otherwise be millions of errors."""

Number = Annotated[float, Field(allow_inf_nan=False)]
Rows = Items[Items[T]]


class Wire(BaseModel):
    """An object in a body: unknown fields are refused, and nothing is converted, so that true is no number and 1.5 no index."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class Forms(Protocol):
    """Tells the form of a raw value by its tag; None for no form that is known."""

    def __call__(self, value: Any) -> str | None: ...


def plain_form(value: Any) -> str | None:
    """A text, an object or a list."""
    match value:
        case str():
            return TEXT.tag
        case dict() | BaseModel():
            return OBJECT.tag
        case list():
            return LIST.tag
    return None


def sequence_form(value: Any) -> str | None:
    """As `plain_form`, but a list that doesn't begin with a sequence is one of token ids."""
    is_ids = isinstance(value, list) and value and plain_form(value[0]) is None
    return IDS.tag if is_ids else plain_form(value)


def nested_form(value: Any) -> str | None:
    """As `plain_form`, but lists by their depth: rows of numbers, or a stack of such; or a tensor that came in a file."""
    if isinstance(value, Tensor):
        return BYTES.tag
    depth, inner = 0, value
    while isinstance(inner, list):
        depth, inner = depth + 1, inner[0] if inner else None
    return {0: plain_form(value), 2: ROWS.tag, 3: STACK.tag}.get(depth)


def one_of(forms: Forms, expected: str) -> Discriminator:
    """Chooses among the tagged types of a union; a value of no such form is told what is expected."""
    return Discriminator(forms, custom_error_type="form", custom_error_message=f"this is {expected}")


def unbuilt(only: object) -> BeforeValidator:
    """Marks a field of the contract of which this version knows one value."""

    def refuse(value: object) -> object:
        if value != only:
            raise PydanticCustomError("unbuilt", "not built yet in this version; leave the field out")
        return value

    return BeforeValidator(refuse)

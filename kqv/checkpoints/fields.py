"""A configuration file, read field by field, so that an error names the field as the file does."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from kqv.config import Activation, positive
from kqv.errors import CheckpointError

Choice = TypeVar("Choice")

ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""transformers' names of the activations that we have."""


class Fields:
    """An object of a JSON file. A field that is null counts as left out.

    Every method raises `CheckpointError` for a value of another kind, and for a field that is left out and has no default. Some
    fields go by several names; the first is the one that errors speak of.
    """

    def __init__(self, raw: Mapping[str, Any], place: str) -> None:
        self._raw, self._place = raw, place

    def __contains__(self, name: str) -> bool:
        """Whether the file has the field, be it null."""
        return name in self._raw

    def __len__(self) -> int:
        return len(self._raw)

    def size(self, *names: str, default: int | None = None) -> int:
        """A whole number above 0; a default may be 0, for none."""
        return self._take(names, default, positive, "a whole number above 0")

    def sizes(self, name: str, count: int, default: int) -> tuple[int, ...]:
        """Whole numbers above 0, as many as `count`: a list of them, or one for all."""
        what = f"a whole number above 0, or a list of {count}"
        value = self._take((name,), default, lambda value: positive(value) or is_list_of_sizes(value, count), what)
        return tuple(value) if isinstance(value, list) else (value,) * count

    def count(self, name: str, default: int | None = None) -> int:
        """A whole number from 0 on."""
        return self._take((name,), default, is_count, "a whole number from 0 on")

    def number(self, name: str, default: float | None = None) -> float:
        """A number above 0."""
        return float(self._take((name,), default, is_number, "a number above 0"))

    def flag(self, name: str, default: bool | None = None) -> bool:
        """True or false."""
        return self._take((name,), default, lambda value: isinstance(value, bool), "true or false")

    def text(self, name: str) -> str:
        """A string."""
        return self._take((name,), None, lambda value: isinstance(value, str), "a string")

    def choice(self, name: str, choices: Mapping[str, Choice], default: str | None = None) -> Choice:
        """What a word stands for."""
        known = f"one of those that kqv reads: {', '.join(choices)}"
        return choices[self._take((name,), default, lambda value: isinstance(value, str) and value in choices, known)]

    def words(self, name: str, known: Collection[str] = ()) -> tuple[str, ...]:
        """A list of words, of the known ones where there are such; empty where it is left out."""
        what = f"a list of {' and '.join(known) or 'words'}"
        return tuple(self._take((name,), [], lambda value: is_list_of_words(value) and set(value) <= set(known or value), what))

    def token(self, name: str, default: int | None = None) -> int:
        """A token id."""
        return self._take((name,), default, is_count, "a token id")

    def tokens(self, name: str) -> tuple[int, ...]:
        """A token id or a list of them; empty where it is left out."""
        value = self._take((name,), [], is_token_or_tokens, "a token id or a list of them")
        return tuple(value) if isinstance(value, list) else (value,)

    def within(self, name: str) -> "Fields":
        """The object in a field; an empty one where it is left out."""
        return Fields(self._take((name,), {}, lambda value: isinstance(value, dict), "an object"), f"{name} of {self._place}")

    def refuse(self, name: str, why: str, *, unless: object = None) -> None:
        """Raise `CheckpointError` where the field says something else than the only thing that kqv reads, or leaving it out."""
        value = self._raw.get(name)
        if value is not None and value != unless:
            raise CheckpointError(f"{self._place} has {name} = {value!r}; {why}")

    def _take(self, names: tuple[str, ...], default: Any, fits: Callable[[Any], bool], what: str) -> Any:
        name = next((name for name in names if self._raw.get(name) is not None), names[0])
        value = self._raw.get(name)
        if value is None and default is not None:
            return default
        if value is None:
            raise CheckpointError(f"{self._place} lacks {name}, which is {what}")
        if not fits(value):
            raise CheckpointError(f"{self._place} has {name} = {value!r}, where there should be {what}")
        return value


def is_number(value: object) -> bool:
    """Whether a value from a file is a finite number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def is_count(value: object) -> bool:
    """Whether a value from a file is a whole number from 0 on."""
    return positive(value) or (value == 0 and not isinstance(value, bool))


def is_token_or_tokens(value: object) -> bool:
    """Whether a value from a file is a token's id or a list of such."""
    return all(map(is_count, value)) if isinstance(value, list) else is_count(value)


def is_list_of_words(value: object) -> bool:
    """Whether a value from a file is a list of strings."""
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def is_list_of_sizes(value: object, count: int) -> bool:
    """Whether a value from a file is a list of as many whole numbers above 0."""
    return isinstance(value, list) and len(value) == count and all(map(positive, value))

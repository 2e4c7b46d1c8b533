"""Text to token ids and back to the strings that a reader can recognise."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tokenizers

from kqv.errors import CheckpointError, InputError

Side = Literal["left", "right"]


@dataclass(frozen=True)
class Encoding:
    """A tokenised text: one entry a token in each field."""

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...]
    """Half-open character ranges in the text that the token came from; (0, 0) for special tokens."""
    token_types: tuple[int, ...]
    """0 in the first segment, 1 in the second."""


class Tokenizer:
    """A `tokenizer.json`, with its own truncation and padding switched off: kqv never pads, and truncates only when asked to.

    It is never changed afterwards, so that threads can share it.
    """

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        self.special_ids = frozenset(index for index, token in inner.get_added_tokens_decoder().items() if token.special)

    @classmethod
    def from_file(cls, path: Path) -> "Tokenizer":
        """Read a `tokenizer.json`; raises `CheckpointError` where it isn't one."""
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)))
        except Exception as error:  # tokenizers raises plain Exception
            raise CheckpointError(f"{path.name} can't be read as a tokenizer: {error}") from error

    def encode(self, text: str, pair: str | None = None, *, limit: int | None = None, drop: Side = "right") -> Encoding:
        """Tokenise one segment or two, with the special tokens that the model was trained with.

        With a `limit`, tokens of the text (of the longer segment first) are dropped at the `drop` end until all fits; special
        tokens stay. Raises `InputError` for half a surrogate pair, which is no character.
        """
        first = self._segment(text, "text")
        second = None if pair is None else self._segment(pair, "pair")
        if limit is not None:
            room = max(0, limit - self._inner.num_special_tokens_to_add(second is not None))
            lengths = fit(len(first), len(second) if second else 0, room)
            first.truncate(lengths[0], direction=drop)
            if second is not None:
                second.truncate(lengths[1], direction=drop)
        encoding = self._inner.post_process(first, second)
        return Encoding(tuple(encoding.ids), tuple(encoding.tokens), tuple(encoding.offsets), tuple(encoding.type_ids))

    def encode_bare(self, text: str, field: str = "text") -> tuple[int, ...]:
        """The ids of a text alone, without special tokens. Raises `InputError` as `encode` does."""
        return tuple(self._segment(text, field).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, special tokens left out."""
        return str(self._inner.decode(list(ids), skip_special_tokens=True))

    def _segment(self, text: str, field: str) -> tokenizers.Encoding:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            message = f"{field} holds half of a surrogate pair, which is no character; send both halves, or neither"
            raise InputError(message, (field,)) from error
        # A batch of one: `encode` holds the interpreter's lock throughout, and a long text would stop every other thread.
        return self._inner.encode_batch([text], add_special_tokens=False)[0]

    def token(self, index: int) -> str:
        """The string of one id; a placeholder for an id that the vocabulary reserves without a string."""
        return self._inner.id_to_token(index) or f"<{index}>"


def fit(first: int, second: int, room: int) -> tuple[int, int]:
    """Two lengths cut so that they add up to at most `room`, the longer one first.

    >>> fit(9, 3, 8), fit(9, 8, 8)
    ((5, 3), (4, 4))
    """
    if first + second <= room:
        return first, second
    kept = min(first, max(room - second, (room + 1) // 2))
    return kept, min(second, room - kept)

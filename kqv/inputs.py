"""What a caller gives, and what a model reads: one sequence of tokens or of vectors, checked and cut to the model's context."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from kqv.config import ModelShape
from kqv.errors import InputError, UnsupportedError
from kqv.tokenizer import Tokenizer

Truncate = Literal["error", "left", "right"]
"""What happens to a sequence longer than the context: refused, or cut at that end."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Input:
    """One sequence as a caller names it: exactly one of `text`, `tokens` and `embeddings`."""

    text: str | None = None
    tokens: Sequence[int] | None = None
    embeddings: Float[Tensor, "n W"] | None = None
    """Vectors in place of the looked-up token embeddings; positions are still added."""
    pair: str | None = None
    """Second segment, for models that read two."""
    target: str | Sequence[int] | None = None
    """What the decoder of an encoder–decoder reads: a text, which the model's start token is put before, or all its ids."""

    def __post_init__(self) -> None:
        given = [name for name in ("text", "tokens", "embeddings") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(f"give exactly one of text, tokens and embeddings, not {' and '.join(given) or 'none of them'}")
        if self.pair is not None and self.text is None:
            raise InputError("pair is the second segment of a text; it can't stand beside tokens or embeddings", ("pair",))


InputLike = str | Sequence[int] | Tensor | Input
"""A text, token ids, embeddings [n, W], or an `Input`."""


@dataclass(frozen=True, eq=False)
class TokenSequence:
    """One sequence as a model reads it; `ids`, `tokens` and `token_types` are None beside embeddings."""

    ids: tuple[int, ...] | None = None
    tokens: tuple[str, ...] | None = None
    token_types: tuple[int, ...] | None = None
    embeddings: Float[Tensor, "n W"] | None = None
    truncated: int = 0
    """How many tokens were cut off to fit the context."""
    target: "TokenSequence | None" = None
    """What an encoder–decoder's decoder reads; None until the model has written it itself."""

    def __len__(self) -> int:
        return len(self.ids if self.embeddings is None else self.embeddings)  # type: ignore[arg-type]


def as_input(given: InputLike) -> Input:
    """The `Input` that a caller means by a bare text, list of ids or matrix."""
    if isinstance(given, Input):
        return given
    if isinstance(given, str):
        return Input(text=given)
    return Input(embeddings=given) if isinstance(given, Tensor) else Input(tokens=given)


def read(given: InputLike, config: ModelShape, tokenizer: Tokenizer | None, truncate: Truncate = "error") -> TokenSequence:
    """Tokenise where needed, check, and cut to the context. Raises `InputError` with what to do instead."""
    wanted = as_input(given)
    if wanted.text is not None:
        sequence = read_text(wanted.text, wanted.pair, config, tokenizer, truncate)
    elif wanted.tokens is not None:
        sequence = read_ids(wanted.tokens, config, tokenizer, truncate)
    else:
        assert wanted.embeddings is not None
        sequence = read_embeddings(wanted.embeddings, config, truncate)
    if len(sequence) == 0:
        raise InputError("the sequence is empty; it needs at least one token")
    if wanted.target is None:
        return sequence
    return replace(sequence, target=read_target(wanted.target, config, tokenizer, truncate))


def read_target(target: str | Sequence[int], config: ModelShape, tokenizer: Tokenizer | None, truncate: Truncate) -> TokenSequence:
    """The decoder's side: the start token and a text, or ids as they are."""
    if config.architecture != "encoder-decoder":
        raise UnsupportedError(f"a target is for encoder–decoders, and this model is of kind {config.architecture!r}", ("target",))
    if not isinstance(target, str):
        ids = tuple(target)
    elif tokenizer is None:
        raise UnsupportedError("this model came without a tokenizer.json; send the target's ids instead of text", ("target",))
    else:
        start = () if config.start_token is None else (config.start_token,)
        ids = (*start, *tokenizer.encode_bare(target, "target"))
    if not ids:
        raise InputError("the target is empty; the decoder needs at least its start token", ("target",))
    try:
        return read_ids(ids, config, tokenizer, truncate)
    except InputError as error:
        raise type(error)(str(error), ("target", *error.location[1:])) from error


def read_text(text: str, pair: str | None, config: ModelShape, tokenizer: Tokenizer | None, truncate: Truncate) -> TokenSequence:
    if tokenizer is None:
        raise UnsupportedError("this model came without a tokenizer.json; send tokens instead of text", ("text",))
    if pair is not None and config.token_types < 2:
        raise UnsupportedError("this model reads one segment; leave pair out", ("pair",))
    if not text:
        raise InputError("text is empty; it needs at least one character", ("text",))
    encoding = tokenizer.encode(text, pair)
    excess = excess_over(config.context, len(encoding.ids), truncate, "text")
    if excess:
        encoding = tokenizer.encode(text, pair, limit=config.context, drop="left" if truncate == "left" else "right")
    types = encoding.token_types if config.token_types > 1 else None
    return TokenSequence(encoding.ids, encoding.tokens, types, truncated=excess)


def read_ids(ids: Sequence[int], config: ModelShape, tokenizer: Tokenizer | None, truncate: Truncate) -> TokenSequence:
    for place, index in enumerate(ids):
        if type(index) is not int or not 0 <= index < config.vocabulary_size:  # True is an int too, but no token id
            message = f"token ids of this model are whole numbers from 0 to {config.vocabulary_size - 1}, not {index!r}"
            raise InputError(message, ("tokens", place))
    excess = excess_over(config.context, len(ids), truncate, "tokens")
    kept = tuple(ids[excess:] if truncate == "left" else ids[: len(ids) - excess])
    strings = None if tokenizer is None else tuple(map(tokenizer.token, kept))
    return TokenSequence(kept, strings, truncated=excess)


def read_embeddings(embeddings: Tensor, config: ModelShape, truncate: Truncate) -> TokenSequence:
    if embeddings.ndim != 2 or embeddings.shape[1] != config.d_embedding:
        shape = list(embeddings.shape)
        raise InputError(f"embeddings are [tokens, {config.d_embedding}] for this model, not {shape}", ("embeddings",))
    check_magnitude(embeddings, "embeddings")
    excess = excess_over(config.context, len(embeddings), truncate, "embeddings")
    kept = embeddings[excess:] if truncate == "left" else embeddings[: len(embeddings) - excess]
    return TokenSequence(embeddings=kept, truncated=excess)


def excess_over(context: int, length: int, truncate: Truncate, field: str) -> int:
    """How many tokens have to go; raises `InputError` where none may."""
    excess = max(0, length - context)
    if excess and truncate == "error":
        message = f"the sequence has {length} tokens, {excess} more than the model's context of {context}; "
        raise InputError(message + 'shorten it, or set truncate to "left" or "right"', (field,))
    return excess


def check_magnitude(vectors: Float[Tensor, "... W"], field: str) -> None:
    """Raise `InputError` for NaN, infinities, and vectors so long that their square overflows float32."""
    largest = (torch.finfo(torch.float32).max / vectors.shape[-1]) ** 0.5
    if not bool((vectors.abs() <= largest).all()):  # a NaN compares false
        raise InputError(
            f"{field} holds NaN, an infinity, or a value past ±{largest:.1e}, whose square overflows float32", (field,)
        )

"""English to train on: the prose of Python's own documentation, so that nothing has to be downloaded.

It differs a little from one Python version to the next; `digest` tells which text a model has read.
"""

import ast
import hashlib
import pydoc_data.topics
import random
import sysconfig
from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import tokenizers

SKIPPED = {"site-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip", "turtledemo"}
"""Folders of the library that some distributions leave out, or that hold other people's texts."""

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Prose(NamedTuple):
    """Paragraphs, a line each; none is in both halves."""

    training: list[str]
    held_out: list[str]

    @property
    def digest(self) -> str:
        """What tells one text from another."""
        return hashlib.sha256("\n".join((*self.training, *self.held_out)).encode()).hexdigest()[:12]


@cache
def prose() -> Prose:
    """The paragraphs of the language reference and of the library's docstrings, in order and without repetitions."""
    texts = [*pydoc_data.topics.topics.values(), *docstrings()]
    found = dict.fromkeys(paragraph for text in texts for paragraph in paragraphs(text))
    return Prose([text for text in found if not is_held_out(text)], [text for text in found if is_held_out(text)])


def docstrings() -> Iterator[str]:
    """Every docstring of the standard library, read from its source without importing it."""
    library = Path(sysconfig.get_path("stdlib"))
    for file in sorted(library.rglob("*.py")):
        if SKIPPED.isdisjoint(file.relative_to(library).parts):
            for node in ast.walk(ast.parse(file.read_bytes())):
                if isinstance(node, DOCUMENTED):
                    yield ast.get_docstring(node) or ""


def paragraphs(text: str) -> Iterator[str]:
    """The blocks between empty lines that read as sentences: tables, grammars and examples are left out."""
    for block in text.split("\n\n"):
        words = block.split()
        plain = sum(word.strip(".,;:()'\"*“”").isalpha() for word in words)
        if len(words) >= 8 and plain > 0.85 * len(words):
            yield " ".join(words)


def is_held_out(paragraph: str) -> bool:
    """One paragraph in twenty, by its own words: a longer text doesn't move the others from one half to the other."""
    return hashlib.sha256(paragraph.encode()).digest()[0] < 256 // 20


class Stream:
    """Paragraphs as token ids in one long row, to cut windows from."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, paragraphs: list[str], *, end: str = "") -> None:
        encoded = tokenizer.encode_batch([text + end for text in paragraphs], add_special_tokens=False)
        lengths = [len(encoding) for encoding in encoded]
        self.starts = list(accumulate(lengths[:-1], initial=0))
        self.ids = 2 * [index for encoding in encoded for index in encoding.ids]  # twice: a window may run over the end

    def window(self, length: int, generator: random.Random) -> list[int]:
        """So many tokens from the start of a random paragraph on, into those that follow."""
        start = generator.choice(self.starts)
        return self.ids[start : start + length]

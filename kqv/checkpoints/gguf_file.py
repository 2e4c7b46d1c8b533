"""A GGUF file: what it says of itself, and tensors that stay on disk until they are looked up.

The layout is ggml's (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), versions 2 and 3, little-endian. Nothing in it is
trusted: each length is held against what is left of the file before anything is read or made room for. The `gguf` package's own
reader doesn't do that, and an array that claims 2⁶⁰ numbers keeps it busy for ever; of that package come the table of types and the
dequantisation.
"""

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from gguf.quants import dequantize
from torch import Tensor

from kqv.errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
LONGEST_ARRAY = 1 << 22
"""Of metadata: ten times what the largest vocabularies need."""

NUMBERS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.FLOAT64: "d",
    GGUFValueType.BOOL: "?",
}
"""Letters of `struct`."""

PLAIN = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}
"""Types of which the file's bytes are the tensor's."""

Kind = TypeVar("Kind", bound=IntEnum)


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is in the file, and how it is written there."""

    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    """As torch has it; the file has it the other way round."""
    offset: int
    """Bytes from the start of the file's data."""

    @property
    def byte_shape(self) -> tuple[int, ...]:
        """The same axes, the last one in bytes."""
        block, width = GGML_QUANT_SIZES[self.kind]
        return (*self.shape[:-1], self.shape[-1] // block * width)


class GgufFile(Mapping[str, Tensor]):
    """A file's metadata by key and its tensors by name; a tensor is dequantised, to float32, each time it is looked up.

    Tensors in float32, float16 and bfloat16 are memory-mapped. Raises `CheckpointError` for a file that isn't what it says.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._data = path, mapped(path)
        cursor = Cursor(path.name, self._data)
        tensors, pairs = cursor.counts()
        self.metadata: dict[str, Any] = {cursor.text(): cursor.value() for _ in range(pairs)}
        self._stored = {cursor.text(): cursor.tensor() for _ in range(tensors)}
        if len(self._stored) < tensors:
            raise cursor.wrong("two tensors have one name")
        alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        self._begin = cursor.next_multiple(alignment)
        for name, stored in self._stored.items():
            check(name, stored, cursor, self._begin, alignment)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def __contains__(self, name: object) -> bool:
        return name in self._stored  # Mapping's own would read the tensor

    @property
    def widest(self) -> int:
        """The longest axis of all tensors."""
        return max((size for stored in self._stored.values() for size in stored.shape), default=0)

    def __getitem__(self, name: str) -> Tensor:
        stored = self._stored[name]
        content = np.frombuffer(self._data, np.uint8, prod(stored.byte_shape), self._begin + stored.offset)
        if stored.kind in PLAIN:
            return torch.from_numpy(content).view(PLAIN[stored.kind]).reshape(stored.shape)
        try:
            return torch.from_numpy(dequantize(content.reshape(stored.byte_shape), stored.kind))
        except NotImplementedError as error:
            kind = f"{name} is written as {stored.kind.name}, which kqv can't read"
            raise CheckpointError(f"{self.path.name}: {kind}; Q8_0, for example, it can") from error


class Cursor:
    """Reads a file from its start. Raises `CheckpointError` where it would have to read past the end."""

    def __init__(self, name: str, data: mmap.mmap) -> None:
        self.name, self.data, self.position = name, data, 0

    def wrong(self, what: str) -> CheckpointError:
        """An error that names the file."""
        return CheckpointError(f"{self.name} is no GGUF file that kqv can read: {what}")

    def counts(self) -> tuple[int, int]:
        """How many tensors and how many pieces of metadata the file announces, after its magic and version."""
        magic = self.data[: len(MAGIC)]
        if magic != MAGIC:
            raise self.wrong(f"it begins with {magic!r}, not {MAGIC!r}")
        _, version, tensors, pairs = self.numbers("4sIQQ")
        if version not in VERSIONS:
            raise self.wrong(f"its version is {version}; kqv reads 2 and 3, little-endian")
        return tensors, pairs

    def step(self, size: int) -> int:
        """Go over so many bytes; where they began."""
        before, left = self.position, len(self.data) - self.position
        if size > left:
            raise self.wrong(f"it is cut short or damaged, since {size} bytes are announced at byte {before} and {left} are left")
        self.position += size
        return before

    def numbers(self, letters: str) -> tuple[Any, ...]:
        """Some numbers, by their letters in `struct`."""
        layout = f"<{letters}"
        return struct.unpack_from(layout, self.data, self.step(struct.calcsize(layout)))

    def text(self) -> str:
        """A string, after its length in bytes."""
        (size,) = self.numbers("Q")
        begin = self.step(size)
        try:
            return self.data[begin : self.position].decode()
        except UnicodeDecodeError:
            raise self.wrong(f"the string at byte {begin} is not UTF-8") from None

    def value(self) -> Any:
        """A number, a text, or an array of either, after its type."""
        kind = self.kind(GGUFValueType)
        if kind == GGUFValueType.ARRAY:
            return self.array()
        return self.text() if kind == GGUFValueType.STRING else self.numbers(NUMBERS[kind])[0]

    def array(self) -> list[Any]:
        """Texts or numbers, after their type and count."""
        kind = self.kind(GGUFValueType)
        (count,) = self.numbers("Q")
        if count > LONGEST_ARRAY:
            raise self.wrong(f"an array of {count} values is announced at byte {self.position}; none needs to be so long")
        if kind == GGUFValueType.ARRAY:
            raise self.wrong("it holds an array of arrays")
        return [self.text() for _ in range(count)] if kind == GGUFValueType.STRING else [*self.numbers(f"{count}{NUMBERS[kind]}")]

    def kind(self, kinds: type[Kind]) -> Kind:
        """The type of what follows."""
        (number,) = self.numbers("I")
        try:
            return kinds(number)
        except ValueError:
            raise self.wrong(f"byte {self.position - 4} names the type {number}, which there is not") from None

    def tensor(self) -> StoredTensor:
        """A tensor's row in the table."""
        (axes,) = self.numbers("I")
        shape = self.numbers(f"{axes}Q")[::-1]
        return StoredTensor(self.kind(GGMLQuantizationType), shape, *self.numbers("Q"))

    def next_multiple(self, alignment: object) -> int:
        """Where the data begins after the tables."""
        if not isinstance(alignment, int) or alignment < 8 or alignment % 8:
            raise self.wrong(f"general.alignment is {alignment!r}, not a multiple of 8")
        return -(-self.position // alignment) * alignment


def mapped(path: Path) -> mmap.mmap:
    """The file in memory, read page by page when it is used. Writable, as torch wants it, in a copy that nobody else sees."""
    with path.open("rb") as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except ValueError:
            raise CheckpointError(f"{path.name} is empty") from None


def check(name: str, tensor: StoredTensor, cursor: Cursor, begin: int, alignment: int) -> None:
    """Raise `CheckpointError` for a tensor that isn't made of whole blocks, or isn't all there."""
    block, _ = GGML_QUANT_SIZES[tensor.kind]
    if not tensor.shape or 0 in tensor.shape or tensor.shape[-1] % block or tensor.offset % alignment:
        what = f"{list(tensor.shape)} as {tensor.kind.name} at {tensor.offset}"
        raise cursor.wrong(f"{name} can't be {what}: that is no whole number of blocks at a multiple of {alignment}")
    end = begin + tensor.offset + prod(tensor.byte_shape)
    if end > len(cursor.data):
        raise cursor.wrong(f"{name} ends at byte {end}, but the file at {len(cursor.data)}: it is cut short, or its table lies")

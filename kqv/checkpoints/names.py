"""From their tensors to ours: a table of names, and errors that name what is missing, left over or of another shape."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from kqv.errors import CheckpointError

Table = Mapping[str, str | tuple[str, ...]]
"""Our names to theirs; `*` stands for one dotted part, the same on both sides. Several of theirs are joined along the first
axis."""


def assemble(
    expected: Mapping[str, Tensor], table: Table, tensors: Mapping[str, Tensor], ignored: Iterable[str] = ()
) -> dict[str, Tensor]:
    """Every expected tensor, made of the checkpoint's.

    `expected` is a model's state on the meta device; `ignored` are patterns of theirs that have no place in ours. Raises
    `CheckpointError` for tensors that are missing, left over or of another shape.
    """
    sources = {name: their_names(name, table) for name in expected}
    used = {theirs for names in sources.values() for theirs in names}
    unused = [name for name in tensors if name not in used and not any(matches(pattern, name) for pattern in ignored)]
    missing = sorted(used - tensors.keys())
    if missing:
        raise CheckpointError(f"the weights lack {listing(missing)}, which config.json calls for")
    if unused:
        raise CheckpointError(f"the weights hold {listing(unused)}, for which config.json has no place")
    return {name: joined(name, [tensors[theirs] for theirs in sources[name]], expected[name]) for name in expected}


def joined(name: str, parts: list[Tensor], expected: Tensor) -> Tensor:
    """The parts as one tensor of the expected shape; a single part isn't copied."""
    tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
    if tensor.shape != expected.shape:
        shapes = f"{list(tensor.shape)}, where config.json calls for {list(expected.shape)}"
        raise CheckpointError(f"the weights for {name} have the shape {shapes}")
    return tensor


def their_names(name: str, table: Table) -> tuple[str, ...]:
    """What a tensor of ours is made of."""
    for pattern, theirs in table.items():
        found = re.fullmatch(regex(pattern), name)
        if found:
            parts = (theirs,) if isinstance(theirs, str) else theirs
            return tuple(part.replace("*", "{}").format(*found.groups()) for part in parts)
    raise LookupError(f"the reader's table has no line for {name}")


def matches(pattern: str, name: str) -> bool:
    """Whether a name fits a pattern; a closing `**` stands for any rest."""
    return re.fullmatch(regex(pattern), name) is not None


def regex(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*\*", ".+").replace(r"\*", r"([^.]+)")


def listing(names: list[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest

"""From their tensors to ours: a table of names, and errors that name what is missing, left over or of another shape."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kqv.config import ModelConfig
from kqv.errors import CheckpointError
from kqv.transformer import Transformer, lay_out


@dataclass(frozen=True)
class Source:
    """A tensor of theirs that is one of ours, or a part of one."""

    name: str
    change: Callable[[Tensor], Tensor] | None = None
    """What turns it into ours: a transpose, a slice."""
    otherwise: str = ""
    """Read where there is no `name`: a head that is tied to the embeddings is stored as those alone."""


Parts = tuple[Source, ...]
Table = dict[str, str | Source | tuple[str | Source, ...]]
"""Our names to theirs; `*` stands for one dotted part, the same on both sides. Several of theirs are joined along the first
axis."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a checkpoint becomes a model of ours."""

    config: ModelConfig
    names: Table
    ignored: tuple[str, ...] = ()
    """Patterns of tensors that have no place in ours; a closing `**` stands for any rest."""
    spellings: tuple[tuple[str, str], ...] = ()
    """(usual, other): a file in which no name has the usual part has the other one instead, which may be empty."""
    described_by: str = "config.json"
    """Where the sizes are from, for errors to name."""

    def line(self, name: str) -> tuple[Parts, tuple[str, ...]]:
        """The line of the table that a tensor of ours has, and what its stars stand for."""
        for pattern, theirs in self.names.items():
            if found := re.fullmatch(regex(pattern), name):
                parts = theirs if isinstance(theirs, tuple) else (theirs,)
                return tuple(Source(part) if isinstance(part, str) else part for part in parts), found.groups()
        raise LookupError(f"the reader's table has no line for {name}")

    def respelt(self, file: Collection[str]) -> Callable[[str], str]:
        """From a name as the table has it to the name as this file has it."""
        other = [(usual, other) for usual, other in self.spellings if not any(usual in name for name in file)]

        def spell(name: str) -> str:
            for pair in other:
                name = name.replace(*pair)
            return name

        return spell


def assemble(recipe: Recipe, tensors: Mapping[str, Tensor]) -> Transformer:
    """The model, made of the checkpoint's tensors; what needs no rearranging isn't copied.

    Ours that are made of the same tensor are one parameter, so that they stay tied when the model is moved. Raises
    `CheckpointError` for tensors that are missing, left over, of another shape, or of whole numbers.
    """
    try:
        transformer = lay_out(recipe.config)
    except RuntimeError as error:  # torch's, where the bytes can't even be counted
        raise CheckpointError(f"{recipe.described_by} gives sizes past all measure: {error}") from error
    state, parameters = transformer.state_dict(), dict(transformer.named_parameters())
    sources = find_sources(recipe, state, tensors.keys())
    check_names(recipe, {part.name for parts in sources.values() for part in parts}, tensors.keys())
    read: dict[Parts, Tensor] = {}
    for name, parts in sources.items():
        if parts not in read:
            tensor = join(parts, [tensors[part.name] for part in parts], state[name].shape, recipe.described_by)
            read[parts] = nn.Parameter(tensor, requires_grad=False) if name in parameters else tensor
        state[name] = read[parts]
    transformer.load_state_dict(state, assign=True)
    return transformer


def find_sources(recipe: Recipe, state: Mapping[str, Tensor], file: Collection[str]) -> dict[str, Parts]:
    """What each tensor of ours is made of, by the names that the file has.

    A table that the model made itself, and so isn't on the meta device, is left out where the file doesn't bring its own.
    """
    spell = recipe.respelt(file)
    sources = {}
    for name, tensor in state.items():
        patterns, stars = recipe.line(name)
        parts = tuple(find_source(part, stars, spell, file) for part in patterns)
        if tensor.is_meta or all(part.name in file for part in parts):
            sources[name] = parts
    return sources


def find_source(source: Source, stars: tuple[str, ...], spell: Callable[[str], str], file: Collection[str]) -> Source:
    """A source with its stars filled in, or what is read in its place where the file lacks it."""
    name, otherwise = (spell(pattern.replace("*", "{}").format(*stars)) for pattern in (source.name, source.otherwise))
    return Source(otherwise if name not in file and otherwise in file else name, source.change)


def check_names(recipe: Recipe, used: Collection[str], file: Collection[str]) -> None:
    """Raise `CheckpointError` for tensors that the file lacks, or that nobody asked for."""
    patterns = list(map(recipe.respelt(file), recipe.ignored))
    missing = sorted(set(used) - set(file))
    if missing:
        raise CheckpointError(f"the weights lack {listing(missing)}, which {recipe.described_by} calls for")
    unused = [name for name in file if name not in used and not any(matches(pattern, name) for pattern in patterns)]
    if unused:
        raise CheckpointError(f"the weights hold {listing(unused)}, for which {recipe.described_by} has no place")


def join(parts: Parts, tensors: list[Tensor], shape: torch.Size, described_by: str) -> Tensor:
    """The parts as one tensor of the expected shape; a single part that isn't changed isn't copied either."""
    for part, tensor in zip(parts, tensors, strict=True):
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(f"{part.name} holds {kind}; kqv reads weights in floating point, not quantised ones")
    try:
        changed = [part.change(tensor) if part.change else tensor for part, tensor in zip(parts, tensors, strict=True)]
        joined = changed[0] if len(changed) == 1 else torch.cat(changed)
    except (RuntimeError, IndexError):  # what torch raises where a shape can't be cut or joined as the reader does
        joined = None
    if joined is None or joined.shape != shape:
        shapes = " and ".join(f"{part.name} {list(tensor.shape)}" for part, tensor in zip(parts, tensors, strict=True))
        made = "don't fit together" if joined is None else f"make {list(joined.shape)}"
        raise CheckpointError(f"the weights hold {shapes}, which {made}; {described_by} calls for {list(shape)}")
    return joined


def matches(pattern: str, name: str) -> bool:
    """Whether a name fits a pattern; a closing `**` stands for any rest."""
    return re.fullmatch(regex(pattern), name) is not None


def regex(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*\*", ".+").replace(r"\*", r"([^.]+)")


def listing(names: list[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest

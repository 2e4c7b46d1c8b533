"""The attention function that transformers' layers call, and how their masks and biases are put in our terms."""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from kqv.attention.biases import Bias, Tabulated
from kqv.attention.call import Attend, AttentionCall, Limits, OutputProjection
from kqv.attention.dense import repeat_heads
from kqv.attention.masks import Causal, Everything, Mask, Table
from kqv.config import Group
from kqv.errors import CheckpointError
from kqv.packing import Packing

NAME = "kqv"
"""What the function is called in transformers' registry."""


class Step(NamedTuple):
    """One of the calls that a side of a model makes in every pass, in this order."""

    module: nn.Module
    group: Group
    layer: int
    projection: nn.Module | None
    """What the heads' outputs go through next, where that is a linear map."""


@dataclass(frozen=True, eq=False)
class RegistryCall(AttentionCall):
    """A call of transformers', whose sequences have a mask and a bias each, for just the queries that there are."""

    masks: tuple[Mask, ...]
    biases: tuple[Bias | None, ...]

    @property
    def sight(self) -> Hashable:
        return self.group, self.masks

    @property
    def bias_of_pairs(self) -> bool:
        return any(bias is not None for bias in self.biases)

    def limits(self) -> Limits | None:
        return super().limits() if len(set(self.masks)) == 1 else None

    def rules(self, index: int, read: int) -> tuple[Mask, Bias | None]:
        return self.masks[index], self.biases[index]


@dataclass(eq=False)
class Listener:
    """Takes the calls of one pass of one side, whose sequences are all of one length."""

    steps: Sequence[Step]
    attend: Attend
    heard: int = 0
    read: dict[int, tuple[Tensor, "list[ReadMask]"]] = field(default_factory=dict)
    """Masks that were read already, by id, and kept so that no other gets it: layers share them."""

    def expect(self, module: nn.Module) -> Step:
        """What this call is, by its place among those that were heard when the model was loaded."""
        if self.heard == len(self.steps) or self.steps[self.heard].module is not module:
            raise RuntimeError(f"{type(module).__name__} attends out of turn, at call {self.heard} of {len(self.steps)}")
        self.heard += 1
        return self.steps[self.heard - 1]

    def finish(self) -> None:
        """Raise `RuntimeError` where a layer attended without us."""
        if self.heard != len(self.steps):
            raise RuntimeError(f"{self.heard} of {len(self.steps)} layers attended through kqv")

    def hear(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: dict[str, Any]) -> Tensor:
        """Attend for one layer: q [B, H, T, D], k and v [B, G, S, D] in, the heads' outputs [B, T, H, D] out."""
        check(module, q, k, v, options)
        step = self.expect(module)
        scaling, softcap, position_bias = (options.get(name) for name in ("scaling", "softcap", "position_bias"))
        scale = q.shape[-1] ** -0.5 if scaling is None else float(scaling)
        read = self.masks(mask, q, k)
        added = [bias_of(index, q, k, scale, part, position_bias, softcap) for index, part in enumerate(read)]
        if softcap is not None:  # its bias would lose too much in half precision
            q, k, v = (tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in (q, k, v))
        call = RegistryCall(
            group=step.group,
            layer=step.layer,
            q=q.transpose(1, 2).flatten(0, 1),
            queries=Packing((q.shape[2],) * len(q)),
            keys=tuple(k.transpose(1, 2)),
            values=tuple(v.transpose(1, 2)),
            projection=OutputProjection(output_weight(step.projection, q), q.shape[1]),
            mask=read[0].mask,
            bias=added[0],
            scale=scale,
            masks=tuple(part.mask for part in read),
            biases=tuple(added),
        )
        return self.attend(call).unflatten(0, (len(q), -1))

    def masks(self, mask: Tensor | None, q: Tensor, k: Tensor) -> "list[ReadMask]":
        """What a mask [B or 1, H or 1, T or 1, S or more], of booleans or to be added, says for each sequence."""
        if mask is None:
            return [ReadMask(Everything(), None)] * len(q)
        if id(mask) not in self.read:
            whole = mask.expand(len(q), -1, q.shape[2], -1)[..., : k.shape[2]]
            first = read_mask(whole[0])
            self.read[id(mask)] = mask, [first if torch.equal(part, whole[0]) else read_mask(part) for part in whole]
        return self.read[id(mask)][1]


class ReadMask(NamedTuple):
    """A mask of transformers' in our terms."""

    mask: Mask
    added: Float[Tensor, "#H T S"] | None
    """What it adds to the scores that it lets through."""


LISTENER: ContextVar[Listener] = ContextVar("kqv-listener")
"""Who listens in this thread: the registry knows functions alone, and not every model hands arguments of ours down to them."""


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Hear the calls of this thread until the block's end."""
    register()
    token = LISTENER.set(listener)
    try:
        yield
    finally:
        LISTENER.reset(token)


def register() -> None:
    """Enter our functions in transformers' registries; once is enough, and again does no harm."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, make_mask)


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """What transformers' layers call."""
    return LISTENER.get().hear(module, query, key, value, attention_mask, options).to(value.dtype).contiguous(), None


def make_mask(*args: Any, **options: Any) -> Tensor:
    """Booleans for every query and key: transformers would leave out a mask that it takes the kernel to know."""
    return sdpa_mask(*args, **(options | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}))


def check(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> None:
    """Raise `CheckpointError` for attention that `kqv.attention` has no terms for."""
    if options.get("s_aux") is not None or getattr(module, "sinks", None) is not None:
        raise CheckpointError(
            "its heads have sinks: a share of each query's weight goes to no key, and no figure here allows for that"
        )
    if v.shape[-1] != q.shape[-1]:
        raise CheckpointError(
            f"its values are {v.shape[-1]} wide and its queries {q.shape[-1]}, and kqv reports heads of one width"
        )
    if q.shape[1] % k.shape[1]:
        raise CheckpointError(f"its {k.shape[1]} key/value heads don't divide its {q.shape[1]} heads")


def read_mask(mask: Tensor) -> ReadMask:
    """One sequence's mask, [H or 1, T, S]: recognised, so that faster forms know it too, or spelled out."""
    if mask.dtype == torch.bool:
        return ReadMask(recognise(mask), None)
    visible = mask > torch.finfo(mask.dtype).min / 2
    added = mask.masked_fill(~visible, 0.0)
    return ReadMask(recognise(visible), added if added.any() else None)


def recognise(visible: Bool[Tensor, "#H T S"]) -> Mask:
    """The simplest mask that says the same."""
    if visible.all():
        return Everything()
    queries, keys = visible.shape[-2:]
    if queries == keys and torch.equal(visible, torch.ones_like(visible).tril()):
        return Causal()
    return Table(visible.unsqueeze(0))


def bias_of(
    index: int, q: Tensor, k: Tensor, scale: float, read: ReadMask, position_bias: Tensor | None, softcap: float | None
) -> Bias | None:
    """All that is added to one sequence's scaled scores.

    Capping (Gemma 2), c · tanh(score / c), is written as what it adds to the score: so it is in every figure, and in no formula.
    """
    parts = [] if read.added is None else [read.added]
    if position_bias is not None:
        parts.append(position_bias[index if len(position_bias) > 1 else 0][..., : k.shape[2]])
    if softcap is not None:
        wide = torch.promote_types(q.dtype, torch.float32)
        queries, keys = (tensor[index : index + 1].to(wide) for tensor in (q, k))
        scores = (queries @ repeat_heads(keys, q.shape[1]).mT)[0] * scale
        parts.append(softcap * (scores / softcap).tanh() - scores)
    return Tabulated(sum(parts[1:], parts[0]).unsqueeze(0)) if parts else None


def output_weight(projection: nn.Module | None, q: Tensor) -> Float[Tensor, "W HD"]:
    """The output projection as torch stores it, or NaN where none follows: what a head adds to the residual stream is undefined."""
    if projection is None:
        return q.new_full((1, q.shape[1] * q.shape[3]), torch.nan)
    weight: Tensor = projection.weight  # type: ignore[assignment]
    return weight if isinstance(projection, nn.Linear) else weight.T  # GPT-2's Conv1D is stored the other way round

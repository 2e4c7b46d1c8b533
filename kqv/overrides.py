"""Which of a model's attention groups can run under another attention than the model's own, told before anything runs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kqv.attention.longformer import Longformer
from kqv.attention.masks import Mask
from kqv.attention.variants import Variant
from kqv.config import Group, ModelConfig, ModelShape
from kqv.errors import InputError, UnsupportedError
from kqv.transformer import mask

Lengths = Mapping[Group, tuple[int, int]]
"""How many queries and keys each group has."""


def served(variant: Variant, groups: Sequence[Group] | None, config: ModelShape, lengths: Lengths) -> frozenset[Group]:
    """The groups that run under `variant`: those that are named, or all of the model's that it can serve.

    Raises `UnsupportedError` where it can't serve a named group, or none at all, and `InputError` for parameters that don't fit.
    """
    if not isinstance(config, ModelConfig):
        message = "this model's attention is another library's, which has masks of its own; leave attention out"
        raise UnsupportedError(message, ("attention",))
    chosen = tuple(config.groups if groups is None else groups)
    check_known(chosen, config)
    reasons = {group: refusal(variant, group, config, lengths) for group in chosen}
    refused = [group for group in chosen if reasons[group] is not None]
    if groups is not None and refused:
        able = [group for group in config.groups if can_serve(variant, group, config, lengths)]
        instead = f"it can serve {' and '.join(able)} of this model" if able else "it can serve none of this model"
        message = f"{variant.kind} can't serve {refused[0]} attention: {reasons[refused[0]]}; {instead}"
        raise UnsupportedError(message, ("attention", "groups", chosen.index(refused[0])))
    if len(refused) == len(chosen):
        message = f"{variant.kind} can serve no attention of this model: {reasons[refused[0]]}"
        raise UnsupportedError(message, ("attention", "kind"))
    return frozenset(chosen) - frozenset(refused)


def check_known(groups: Sequence[Group], config: ModelConfig) -> None:
    """Raise `InputError` for groups that the model doesn't have, and for none."""
    if not groups:
        raise InputError("groups is empty; name at least one, or leave it out for all that can be served", ("attention", "groups"))
    for place, group in enumerate(groups):
        if group not in config.groups:
            message = f"this model has no {group} attention; it has {' and '.join(config.groups)}"
            raise InputError(message, ("attention", "groups", place))


def can_serve(variant: Variant, group: Group, config: ModelConfig, lengths: Lengths) -> bool:
    """Whether a group can run under `variant`, at least with other parameters."""
    try:
        return refusal(variant, group, config, lengths) is None
    except InputError:
        return True


def refusal(variant: Variant, group: Group, config: ModelConfig, lengths: Lengths) -> str | None:
    """Why a group can't run under `variant`; None where it can. Raises `InputError` for parameters that don't fit it."""
    try:
        if group == "cross" and not variant.crosses:
            raise UnsupportedError(f"{variant.kind} is the attention of one sequence to itself; take linformer or performer")
        biased = group != "cross" and config.positions in ("relative", "linear")
        for seen in masks(config, group):
            settled(variant, config, group).check((config.num_heads, *lengths[group], config.d_head), seen, biased)
    except UnsupportedError as error:
        return str(error)
    return None


def masks(config: ModelConfig, group: Group) -> set[Mask]:
    """Every mask that a group's layers have."""
    return {mask(config, group, layer) for layer in range(config.groups[group])}


def settled(variant: Variant, config: ModelConfig, group: Group) -> Variant:
    """With a window that fits any sequence, where the layers have windows of their own, which are cut to it."""
    has_windows = group == "encoder" and config.encoder_windows
    if isinstance(variant, Longformer) and variant.window is None and has_windows:
        return replace(variant, window=2)
    return variant

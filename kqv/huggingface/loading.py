"""From config.json and a checkpoint's tensors to a network: transformers lays the model out, and opens no file itself."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor

from kqv.errors import CheckpointError
from kqv.huggingface.examining import examine
from kqv.huggingface.network import TransformersNetwork
from kqv.huggingface.registry import NAME, register

CHANGING_ROTATIONS = ("dynamic", "longrope")
"""Rotary positions whose frequencies depend on how long the text is, so that a cached step isn't the full pass."""


def read(said: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TransformersNetwork:
    """The network that config.json and the tensors make. Raises `CheckpointError` with the reason where it can't be run exactly."""
    kind = said["model_type"]
    try:
        with quietly():
            config = transformers.CONFIG_MAPPING[kind].from_dict(dict(said))
            check_config(config)
            return examine(load(config, said, tensors))
    except Exception as error:  # transformers' models raise whatever their code runs into
        raise CheckpointError(f"kqv can't serve this model of type {kind!r} through transformers: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What went wrong, for the person who asked."""
    if isinstance(error, CheckpointError):
        return str(error)
    if isinstance(error, KeyError) and error.args == (NAME,):
        return "it chooses among attention functions of its own, not from transformers' registry"
    return f"{type(error).__name__}: {error}"


def knows(kind: str) -> bool:
    """Whether transformers has models of this type."""
    return kind in transformers.CONFIG_MAPPING


@contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' progress bars."""
    shown = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.logging.enable_progress_bar()


def check_config(config: Any) -> None:
    """Raise `CheckpointError` for what isn't one model of text."""
    if config.sub_configs:
        raise CheckpointError(
            f"its config is put together of {' and '.join(config.sub_configs)}, and kqv serves models of text in one piece"
        )
    for rope in ropes(config):
        if rope.get("rope_type") in CHANGING_ROTATIONS:
            raise CheckpointError(
                f"its rotary positions are of kind {rope['rope_type']!r}, which change with the length of the text"
            )


def ropes(config: Any) -> list[dict[str, Any]]:
    """The rotary positions of all layers, or of each kind of layer."""
    given = getattr(config, "rope_parameters", None) or {}
    return [given, *(part for part in given.values() if isinstance(part, dict))]


def load(config: Any, said: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """The model that config.json names, on the CPU in float32. Raises `CheckpointError` for tensors missing or left over."""
    register()
    model, found = model_class(config, said).from_pretrained(
        None,
        config=config,
        state_dict=dict(tensors),
        dtype=torch.float32,
        attn_implementation=NAME,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
    )
    for what, keys in (("lack", found["missing_keys"]), ("hold", found["unexpected_keys"])):
        if keys:
            names = ", ".join(sorted(keys)[:5])
            raise CheckpointError(
                f"the weights {what} {names}, which {'config.json calls for' if what == 'lack' else 'have no place'}"
            )
    if model.main_input_name != "input_ids":
        raise CheckpointError(f"it reads {model.main_input_name}, and kqv serves models of text alone")
    return model.eval().requires_grad_(False)


def model_class(config: Any, said: Mapping[str, Any]) -> Any:
    """The class that the file says it was saved from; without that the model of the type, which has no head."""
    for name in said.get("architectures") or ():
        found: Any = getattr(transformers, str(name), None)
        if getattr(found, "config_class", None) is type(config):
            return found
        raise CheckpointError(f"it is a {name}, which transformers {transformers.__version__} doesn't have")
    if type(config) not in transformers.MODEL_MAPPING:
        raise CheckpointError("transformers has no model of that type without a head, and config.json names no architecture")
    return transformers.MODEL_MAPPING[type(config)]

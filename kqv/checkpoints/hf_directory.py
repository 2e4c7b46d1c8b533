"""A checkpoint directory as Hugging Face lays it out: config.json, model.safetensors, tokenizer.json."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kqv.checkpoints import bert
from kqv.checkpoints.names import assemble
from kqv.errors import CheckpointError
from kqv.tokenizer import Tokenizer
from kqv.transformer import Transformer, lay_out

READERS = {"bert": bert}
"""By `model_type`: modules with `config`, `NAMES`, `PREFIX` and `IGNORED`."""

WEIGHTS = "model.safetensors"
POOLING = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model as read from disk; weights that needed no rearranging are memory-mapped."""

    transformer: Transformer
    tokenizer: Tokenizer | None
    revision: str
    """First 12 hex digits of the weights' SHA-256."""


def read_checkpoint(directory: Path) -> Checkpoint:
    """Read a directory. Raises `CheckpointError`, naming the file and what is wrong with it."""
    raw = read_json(directory / "config.json")
    kind = raw.get("model_type")
    if kind not in READERS:
        raise CheckpointError(f"config.json has model_type {kind!r}; kqv reads {', '.join(READERS)}")
    reader = READERS[kind]
    try:
        config = dataclasses.replace(reader.config(raw), **pooling(directory))
    except KeyError as error:
        raise CheckpointError(f"config.json says it is a {kind} model, but lacks {error}") from error
    transformer = lay_out(config)
    tensors = {name.removeprefix(reader.PREFIX): tensor for name, tensor in read_tensors(directory).items()}
    weights = assemble(transformer.state_dict(), reader.NAMES, tensors, reader.IGNORED)
    transformer.load_state_dict(weights, assign=True)
    tokenizer = directory / "tokenizer.json"
    return Checkpoint(transformer, Tokenizer.from_file(tokenizer) if tokenizer.exists() else None, revision(directory))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return content


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """The tensors of model.safetensors. A pickle is refused, whatever its name: reading one runs its author's code."""
    path = directory / WEIGHTS
    if not path.exists():
        pickles = [name for name in ("pytorch_model.bin", "model.pt") if (directory / name).exists()]
        advice = f"; {pickles[0]} is a pickle, which kqv never reads: convert it to safetensors" if pickles else ""
        raise CheckpointError(f"{path} is missing{advice}")
    try:
        return load_file(path)
    except SafetensorError as error:
        with path.open("rb") as file:
            start = file.read(2)
        is_pickle = start == b"PK" or start[:1] == b"\x80"  # torch.save's zip, or a bare pickle
        what = "is a pickle, which kqv never reads: convert it to safetensors" if is_pickle else f"is damaged or cut short: {error}"
        raise CheckpointError(f"{path} {what}") from error


def pooling(directory: Path) -> dict[str, Any]:
    """How sentence-transformers' module files say that one vector is made of a sequence; nothing where there are none."""
    modules = directory / "modules.json"
    if not modules.exists():
        return {}
    kinds = [module["type"].rpartition(".")[2] for module in json.loads(modules.read_bytes())]
    modes = read_json(directory / "1_Pooling" / "config.json") if "Pooling" in kinds else {"pooling_mode_mean_tokens": True}
    chosen = [mode for mode, on in modes.items() if mode.startswith("pooling_mode_") and on]
    if len(chosen) != 1 or chosen[0] not in POOLING:
        raise CheckpointError(
            f"1_Pooling/config.json asks for {', '.join(chosen) or 'nothing'}; kqv pools by {' or '.join(POOLING)}"
        )
    return {"pooling": POOLING[chosen[0]], "normalize_pooled": "Normalize" in kinds}


def revision(directory: Path) -> str:
    """What tells two versions of a model apart."""
    with (directory / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]

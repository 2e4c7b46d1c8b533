"""The files of a checkpoint directory: JSON objects, and weights in safetensors, in one file or in shards. Never a pickle."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kqv.errors import CheckpointError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
"""Names the file of each tensor where a model comes in several."""
MANY = 100
"""By how many times a size may miss what there is and yet be left to those who know what it is for."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    content = parse(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return content


def read_objects(path: Path) -> list[dict[str, Any]]:
    """The objects of the list in a JSON file."""
    content = parse(path)
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise CheckpointError(f"{path} holds no list of JSON objects")
    return content


def parse(path: Path) -> Any:
    """What a JSON file says."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """The tensors of all weight files, memory-mapped."""
    return {name: tensor for path in weight_files(directory) for name, tensor in read_safetensors(path).items()}


WIDTHS = """
    vocab_size type_vocab_size hidden_size d_model n_embd dim emb_dim embedding_size
    intermediate_size n_inner hidden_dim d_ff ffn_dim encoder_ffn_dim decoder_ffn_dim dim_feedforward
    head_dim d_kv relative_attention_num_buckets
    num_attention_heads num_key_value_heads n_head n_heads num_heads nhead encoder_attention_heads decoder_attention_heads
""".split()
COUNTS = """
    num_hidden_layers num_layers n_layer n_layers encoder_layers decoder_layers num_encoder_layers num_decoder_layers
""".split()
"""What configs call the sizes that some tensor has, and the numbers of layers, each of which has a tensor of its own."""


def check_sizes(said: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raise `CheckpointError` for sizes that no tensor has, before anything of that size is made."""
    widest = max((size for tensor in tensors.values() for size in tensor.shape), default=0)
    for names, limit, lack in (
        (WIDTHS, widest, f"no tensor is wider than {widest}"),
        (COUNTS, len(tensors), f"there are {len(tensors)} tensors"),
    ):
        for name in names:
            size = said.get(name)
            if isinstance(size, int) and size > MANY * limit:
                raise CheckpointError(f"config.json has {name} = {size}, but {lack}")


def revision(*files: Path) -> str:
    """What tells two versions of a model apart: the first 12 hex digits of its files' SHA-256, one after another."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:12]


def weight_files(directory: Path) -> list[Path]:
    """The single file of weights, or the shards that the index names, in order."""
    names = [WEIGHTS]
    if not (directory / WEIGHTS).is_file() and (directory / INDEX).is_file():
        names = shards(directory / INDEX)
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise CheckpointError(f"{directory / missing[0]} is missing{advice(directory)}")
    return [directory / name for name in names]


def shards(index: Path) -> list[str]:
    """The files that an index names. They lie beside it: a path that leads elsewhere is refused."""
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not files or not all(isinstance(name, str) for name in files.values()):
        raise CheckpointError(f"{index} has no weight_map from the names of tensors to those of files")
    names = sorted(set(files.values()))
    for name in names:
        if not name.endswith(".safetensors") or any(sign in name for sign in "/\\:\0"):
            raise CheckpointError(f"{index} names the file {name!r}; it should be one of safetensors in the same folder")
    return names


def advice(directory: Path) -> str:
    """What to do where there are weights, but in a form that isn't read: reading a pickle runs its author's code."""
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in directory.glob(pattern))
    return f"; {pickles[0]} is a pickle, which kqv never reads: convert it to safetensors" if pickles else ""


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file. A pickle under this name is refused like any other."""
    try:
        return load_file(path)
    except SafetensorError as error:
        with path.open("rb") as file:
            start = file.read(2)
        is_pickle = start == b"PK" or start[:1] == b"\x80"  # torch.save's zip, or a bare pickle
        what = "is a pickle, which kqv never reads: convert it to safetensors" if is_pickle else f"is damaged or cut short: {error}"
        raise CheckpointError(f"{path} {what}") from error

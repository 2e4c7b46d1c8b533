"""A checkpoint directory as Hugging Face lays it out: config.json, weights in safetensors, tokenizer.json."""

import dataclasses
import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kqv.checkpoints.bert import bert
from kqv.checkpoints.bloom import bloom
from kqv.checkpoints.byt5 import byte_tokenizer
from kqv.checkpoints.distilbert import distilbert
from kqv.checkpoints.fields import Fields
from kqv.checkpoints.files import check_sizes, read_json, read_objects, read_tensors, revision, weight_files
from kqv.checkpoints.gpt2 import gpt2
from kqv.checkpoints.llama import llama, mistral, qwen2, qwen3
from kqv.checkpoints.longformer import longformer
from kqv.checkpoints.names import Recipe, assemble
from kqv.checkpoints.roberta import roberta
from kqv.checkpoints.t5 import mt5, t5
from kqv.checkpoints.torch_transformer import torch_transformer
from kqv.config import ModelShape
from kqv.errors import CheckpointError
from kqv.tokenizer import Tokenizer
from kqv.transformer import Transformer

if TYPE_CHECKING:
    from kqv.huggingface.network import TransformersNetwork

READERS: dict[str, Callable[[Fields, Collection[str]], Recipe]] = {
    "bert": bert,
    "bloom": bloom,
    "distilbert": distilbert,
    "gpt2": gpt2,
    "llama": llama,
    "longformer": longformer,
    "mistral": mistral,
    "mt5": mt5,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "roberta": roberta,
    "t5": t5,
    "torch_transformer": torch_transformer,
    "xlm-roberta": roberta,
}
"""By `model_type`: from config.json and the names of the file's tensors to what makes a model of them."""

POOLING = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model as read from disk; weights that needed no rearranging are memory-mapped."""

    transformer: "Transformer | TransformersNetwork"
    tokenizer: Tokenizer | None
    revision: str
    """First 12 hex digits of the weights' SHA-256."""


def read_checkpoint(directory: Path) -> Checkpoint:
    """Read a directory. Raises `CheckpointError`, naming the file and what is wrong with it."""
    said = read_json(directory / "config.json")
    fields = Fields(said, "config.json")
    kind = fields.text("model_type")
    fields.refuse("quantization_config", "kqv reads weights in floating point, not quantised ones")
    tensors = read_tensors(directory)
    check_sizes(said, tensors)
    network = read_own(directory, fields, tensors) if kind in READERS else read_foreign(directory, said, tensors)
    return Checkpoint(network, tokenizer(directory), revision(*weight_files(directory)))


def read_own(directory: Path, fields: Fields, tensors: Mapping[str, Tensor]) -> Transformer:
    """A transformer of ours, made of the checkpoint."""
    recipe = fields.choice("model_type", READERS)(fields, tensors.keys())
    config = dataclasses.replace(recipe.config, **pooling(directory), **generation(directory, recipe.config))
    return assemble(dataclasses.replace(recipe, config=config), tensors)


def read_foreign(directory: Path, said: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "TransformersNetwork":
    """A model that none of our readers knows, through transformers, where that is installed."""
    kind = said["model_type"]
    known = f"one of those that kqv reads: {', '.join(READERS)}"
    try:
        huggingface = importlib.import_module("kqv.huggingface")
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        message = f"config.json has model_type = {kind!r}, which is not {known}"
        raise CheckpointError(f"{message}; others go through transformers: pip install 'kqv[transformers]'") from error
    if not huggingface.knows(kind):
        message = f"config.json has model_type = {kind!r}, where there should be {known}, or one of those of transformers"
        raise CheckpointError(f"{message}; code that comes with a model is never run")
    network: TransformersNetwork = huggingface.read(said, tensors)
    network.config = dataclasses.replace(network.config, **pooling(directory), **generation(directory, network.config))
    return network


def tokenizer(directory: Path) -> Tokenizer | None:
    """The tokenizer in tokenizer.json, or that of byT5, which has no such file; else none."""
    if (directory / "tokenizer.json").exists():
        return Tokenizer.from_file(directory / "tokenizer.json")
    config = directory / "tokenizer_config.json"
    of_bytes = config.exists() and read_json(config).get("tokenizer_class") == "ByT5Tokenizer"
    return Tokenizer(byte_tokenizer()) if of_bytes else None


def generation(directory: Path, config: ModelShape) -> dict[str, Any]:
    """What generation_config.json adds to what begins and ends a generation; nothing where there is none."""
    path = directory / "generation_config.json"
    if config.architecture == "encoder" or not path.exists():
        return {}
    fields = Fields(read_json(path), "generation_config.json")
    ends = {"end_tokens": tuple(dict.fromkeys(config.end_tokens + fields.tokens("eos_token_id")))}
    starts = fields.tokens("decoder_start_token_id")
    return ends | {"start_token": starts[0]} if starts and config.architecture == "encoder-decoder" else ends


def pooling(directory: Path) -> dict[str, Any]:
    """How sentence-transformers' module files say that one vector is made of a sequence; nothing where there are none."""
    path = directory / "modules.json"
    if not path.exists():
        return {}
    kinds = [Fields(module, path.name).text("type").rpartition(".")[2] for module in read_objects(path)]
    modes = read_json(directory / "1_Pooling" / "config.json") if "Pooling" in kinds else {"pooling_mode_mean_tokens": True}
    chosen = [mode for mode, on in modes.items() if mode.startswith("pooling_mode_") and on]
    if len(chosen) != 1 or chosen[0] not in POOLING:
        raise CheckpointError(
            f"1_Pooling/config.json asks for {', '.join(chosen) or 'nothing'}; kqv pools by {' or '.join(POOLING)}"
        )
    return {"pooling": POOLING[chosen[0]], "normalize_pooled": "Normalize" in kinds}

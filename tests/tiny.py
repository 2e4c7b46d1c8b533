"""Tiny random checkpoints, made by transformers' own classes. Sizes are distinct primes where they can be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import tokenizers
import torch
import transformers

WORDS = "the cat sat on mat a dog ran to who saw it and slept in sun . , ? ! ##s ##ing ##ed play walk tree".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

VOCABULARY, CONTEXT = 97, 41
BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 35,
    "num_attention_heads": 5,
    "num_hidden_layers": 3,
    "intermediate_size": 53,
    "max_position_embeddings": CONTEXT,
    "layer_norm_eps": 0.01,  # none of the defaults, so that one who ignores it is seen
}
DISTILBERT = {
    "vocab_size": VOCABULARY,
    "dim": 42,  # even, for transformers' sines and cosines
    "n_heads": 3,
    "n_layers": 2,
    "hidden_dim": 53,
    "max_position_embeddings": CONTEXT,
}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 35,
    "n_head": 5,
    "n_layer": 3,
    "n_inner": 53,
    "n_positions": CONTEXT,
    "layer_norm_epsilon": 0.02,
}
BLOOM = {"vocab_size": VOCABULARY, "hidden_size": 35, "n_head": 5, "n_layer": 3, "layer_norm_epsilon": 0.02}
LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 42,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "num_hidden_layers": 3,
    "intermediate_size": 53,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 0.02,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 35,
    "d_kv": 11,
    "d_ff": 53,
    "num_heads": 3,
    "num_layers": 2,
    "num_decoder_layers": 5,
    "layer_norm_epsilon": 0.02,
}


def bert(directory: Path, **changes: object) -> transformers.BertModel:
    """A random BERT of 3 layers, 5 heads of 7, saved with its tokenizer; returns transformers' own model of it, in eager mode."""
    model = save(directory, transformers.BertModel, transformers.BertConfig(**(BERT | changes)))
    wordpiece(directory / "tokenizer.json")
    return model


def save(directory: Path, kind: Callable[[Any], Any], config: transformers.PreTrainedConfig, std: float = 0.3) -> Any:
    """A random model of a kind, saved; returns transformers' own model of it, in eager mode."""
    model = kind(config).eval()
    randomize(model, std)
    model.save_pretrained(directory)
    model.set_attn_implementation("eager")
    return model


def randomize(model: torch.nn.Module, std: float) -> None:
    """Weights so large that heads differ and attention is not uniform. Norms and biases start as ones and zeros, which would
    hide one that is left out or swapped."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=1.0 if name.endswith("weight") else 0.0, std=0.2)
        else:
            torch.nn.init.normal_(parameter, std=1.0 if "relative_attention_bias" in name else std)


def rewrite_config(directory: Path, **changes: object) -> None:
    """Change fields of config.json; None leaves one out."""
    path = directory / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def rewrite_tensors(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of model.safetensors."""
    path = directory / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}
    change(tensors)
    safetensors.torch.save_file(tensors, path)


def wordpiece(path: Path) -> None:
    """A small uncased WordPiece tokenizer, as BERT's."""
    vocabulary = {word: index for index, word in enumerate(SPECIAL + WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(path))

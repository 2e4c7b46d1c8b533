"""Tiny random Llamas in GGUF, written with the `gguf` package and llama.cpp's own names; rows of Q and K in llama.cpp's order."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tiny
import tokenizers
import torch
import transformers
from gguf import GGMLQuantizationType
from texts import NUMBERS, VARIED

LLAMA = tiny.LLAMA | {
    "vocab_size": 311,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"},
}
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END = CONTROL.index("<|im_end|>")


def llama(**changes: Any) -> transformers.LlamaForCausalLM:
    """A random Llama of 3 layers, 3 heads on one of keys and values, in eager mode."""
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**(LLAMA | changes))).eval()
    tiny.randomize(model, std=0.2)
    model.set_attn_implementation("eager")
    return model


def metadata(model: transformers.LlamaForCausalLM) -> dict[str, Any]:
    """What llama.cpp's converter says of a model."""
    config = model.config
    return {
        "llama.vocab_size": config.vocab_size,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.block_count": config.num_hidden_layers,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": config.rope_parameters["rope_theta"],
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
    }


def tensors(model: transformers.LlamaForCausalLM) -> dict[str, np.ndarray]:
    """The weights by llama.cpp's names."""
    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    found = {}
    for name, parameter in model.named_parameters():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2], 0)
        rows = interleaved(parameter.detach(), heads) if heads else parameter.detach()
        found[names.get_name(name, (".weight", ".bias"))] = rows.numpy()
    return found


def interleaved(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Each head's rows in the order 0, D/2, 1, D/2 + 1, …"""
    width = len(rows) // heads
    order = [head * width + half * (width // 2) + pair for head in range(heads) for pair in range(width // 2) for half in (0, 1)]
    return rows[order]


def write(path: Path, said: Mapping[str, Any], weights: Mapping[str, np.ndarray], kind: str = "F32") -> Path:
    """Write a file, without what is None; matrices of whole blocks are quantised as `kind`."""
    said = {"general.architecture": "llama"} | {key: value for key, value in said.items() if value is not None}
    writer = gguf.GGUFWriter(path, said.pop("general.architecture"))
    if weights:
        writer.data_alignment = said.get("general.alignment", writer.data_alignment)
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array}
    for key, value in said.items():
        add[type(value)](key, value)
    for name, values in weights.items():
        chosen = quantisation(values, kind)
        writer.add_tensor(name, values if chosen is None else gguf.quants.quantize(values, chosen), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def quantisation(values: np.ndarray, kind: str) -> GGMLQuantizationType | None:
    """`kind`, for a matrix whose rows are whole blocks of it; None for whole numbers, which stay what they are."""
    if values.dtype != np.float32:
        return None
    wanted = GGMLQuantizationType[kind]
    block, _ = gguf.GGML_QUANT_SIZES[wanted]
    return wanted if values.ndim == 2 and values.shape[1] % block == 0 else GGMLQuantizationType.F32


def pre_tokenizer(cut: str) -> tokenizers.pre_tokenizers.PreTokenizer:
    """GPT-2's, or SmolLM's as its published tokenizer.json has it."""
    words = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
    return tokenizers.pre_tokenizers.Sequence([digits, words]) if cut == "smollm" else words


def bpe(cut: str) -> tokenizers.Tokenizer:
    """A byte-level BPE of 311 tokens, trained on a few texts."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer(cut)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=LLAMA["vocab_size"], special_tokens=CONTROL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((VARIED + NUMBERS) * 2, trainer)
    return tokenizer


def described(tokenizer: tokenizers.Tokenizer, cut: str) -> dict[str, Any]:
    """A byte-level BPE as metadata."""
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": cut,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in CONTROL else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": CONTROL.index("<|im_start|>"),
        "tokenizer.ggml.eos_token_id": END,
    }

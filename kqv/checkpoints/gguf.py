"""A Llama in a GGUF file, as llama.cpp's converter writes it: config, tokenizer and weights in one, mostly quantised."""

import dataclasses
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from kqv.checkpoints.fields import Fields
from kqv.checkpoints.files import revision
from kqv.checkpoints.gguf_file import GgufFile
from kqv.checkpoints.gguf_tokenizer import read_tokenizer
from kqv.checkpoints.hf_directory import Checkpoint
from kqv.checkpoints.names import Recipe, Source, Table, assemble
from kqv.config import ModelConfig, RopeScaling
from kqv.errors import CheckpointError
from kqv.positions import frequencies
from kqv.tokenizer import Tokenizer

ARCHITECTURES = ("llama",)
"""As `general.architecture` has them: Llama, and what is built as it is (SmolLM, Mistral, TinyLlama)."""

STRETCH = "rope_freqs.weight"
"""By what each rotary frequency is divided; Llama 3.1's stretching has no other trace in the file."""


def read_gguf(path: Path) -> Checkpoint:
    """Read a file. Raises `CheckpointError`, naming what is wrong with it."""
    file = GgufFile(path)
    config = read_config(file)
    tokenizer = read_tokenizer(file.metadata, path.name)
    transformer = assemble(Recipe(config=config, names=names(config), ignored=(STRETCH,), described_by="the metadata"), file)
    return Checkpoint(transformer, None if tokenizer is None else Tokenizer(tokenizer), revision(path))


def read_config(file: GgufFile) -> ModelConfig:
    """The metadata in our terms. Raises `CheckpointError` for what isn't Llama's architecture."""
    said = Fields(file.metadata, file.path.name)
    refuse_others(said)
    heads, d_model = said.size("llama.attention.head_count"), said.size("llama.embedding_length")
    config = ModelConfig(
        architecture="decoder",
        vocabulary_size=said.size("llama.vocab_size", default=len(said.words("tokenizer.ggml.tokens"))),
        context=said.size("llama.context_length"),
        d_model=d_model,
        num_heads=heads,
        num_key_value_heads=said.size("llama.attention.head_count_kv", default=heads),
        d_head=head_width(said, d_model // heads),
        d_feed_forward=said.size("llama.feed_forward_length"),
        decoder_layers=layers(said, file),
        norm="rms",
        norm_placement="pre",
        norm_epsilon=said.number("llama.attention.layer_norm_rms_epsilon"),
        final_norm=True,
        query_key_value_bias="blk.0.attn_q.bias" in file,
        output_bias="blk.0.attn_output.bias" in file,
        feed_forward_bias="blk.0.ffn_up.bias" in file,
        activation="silu",
        gated=True,
        positions="rotary",
        rope_theta=said.number("llama.rope.freq_base", 10_000.0),
        rope_scaling=linear_scaling(said),
        head="linear",
        end_tokens=tuple(dict.fromkeys(said.tokens("tokenizer.ggml.eos_token_id") + said.tokens("tokenizer.ggml.eot_token_id"))),
    )
    check_widths(config, said, file)
    return dataclasses.replace(config, rope_scaling=llama_3_scaling(file[STRETCH], config)) if STRETCH in file else config


def layers(said: Fields, file: GgufFile) -> int:
    """How many layers there are: the last one is looked for before anything is made for each of so many."""
    count = said.size("llama.block_count")
    last = f"blk.{count - 1}.attn_norm.weight"
    if last not in file:
        raise CheckpointError(f"{file.path.name} announces {count} layers, but lacks {last}")
    return count


def head_width(said: Fields, default: int) -> int:
    """The width of a head's queries, keys and values."""
    width = said.size("llama.attention.key_length", "llama.rope.dimension_count", default=default)
    for name in ("llama.attention.value_length", "llama.rope.dimension_count"):
        said.refuse(name, "kqv reads heads that are of one width and turned as a whole", unless=width)
    return width


def check_widths(config: ModelConfig, said: Fields, file: GgufFile) -> None:
    """Raise `CheckpointError` for more tokens than are embedded, and for a width that no tensor has: it may be past all measure."""
    tokens = len(said.words("tokenizer.ggml.tokens"))
    if tokens > config.vocabulary_size:
        raise CheckpointError(f"{file.path.name} has {tokens} tokens, but a vocabulary of {config.vocabulary_size}")
    widths = (config.vocabulary_size, config.d_model, config.d_feed_forward, config.num_heads * config.d_head)
    if max(widths) > file.widest:
        raise CheckpointError(f"{file.path.name} announces a width of {max(widths)}, but no tensor is wider than {file.widest}")


def refuse_others(said: Fields) -> None:
    """Raise `CheckpointError` for another architecture, for what Llama has in some files only, and for a part of a model."""
    said.choice("general.architecture", dict.fromkeys(ARCHITECTURES))
    said.refuse("llama.expert_count", "kqv has no mixture of experts", unless=0)
    said.refuse("llama.attention.sliding_window", "kqv reads this architecture without windows", unless=0)
    said.refuse("llama.rope.scale_linear", "the file is of an old kind; convert the model again", unless=1.0)
    said.refuse("split.count", "the model is split over several files; merge them", unless=1)


def linear_scaling(said: Fields) -> RopeScaling | None:
    """How the metadata says that rotary frequencies are stretched."""
    if not said.choice("llama.rope.scaling.type", {"none": False, "linear": True}, "none"):
        return None
    return RopeScaling(kind="linear", factor=said.number("llama.rope.scaling.factor"))


def llama_3_scaling(divisors: Tensor, config: ModelConfig) -> RopeScaling:
    """Llama 3.1's stretching, of which the file keeps the outcome: taken to be as in every published model, and held against it."""
    scaling = RopeScaling(
        kind="llama3",
        factor=divisors.max().item(),
        low_frequency_factor=1.0,
        high_frequency_factor=4.0,
        original_context=8192,
    )
    stretched = frequencies(dataclasses.replace(config, rope_scaling=scaling))
    plain = frequencies(dataclasses.replace(config, rope_scaling=None))
    if divisors.shape != plain.shape or not torch.allclose(plain / stretched, divisors.float(), rtol=1e-4):
        raise CheckpointError(f"{STRETCH} stretches the rotary frequencies otherwise than Llama 3.1, and kqv knows no other way")
    return scaling


def names(config: ModelConfig) -> Table:
    """Where our tensors are in the file."""
    query = Source("blk.*.attn_q.*", partial(restored, heads=config.num_heads))
    key = Source("blk.*.attn_k.*", partial(restored, heads=config.num_key_value_heads))
    return {
        "decoder.embedding.tokens.weight": "token_embd.weight",
        "decoder.layers.*.self_attention.in_projection.*": (query, key, "blk.*.attn_v.*"),
        "decoder.layers.*.self_attention.out_projection.*": "blk.*.attn_output.*",
        "decoder.layers.*.self_attention_norm.*": "blk.*.attn_norm.*",
        "decoder.layers.*.feed_forward.up.*": ("blk.*.ffn_gate.*", "blk.*.ffn_up.*"),
        "decoder.layers.*.feed_forward.down.*": "blk.*.ffn_down.*",
        "decoder.layers.*.feed_forward_norm.*": "blk.*.ffn_norm.*",
        "decoder.final_norm.*": "output_norm.*",
        "head.projection.*": Source("output.*", otherwise="token_embd.*"),
    }


def restored(rows: Tensor, heads: int) -> Tensor:
    """The rows of Q or K in the order that they were trained in.

    llama.cpp turns neighbours, (0, 1), (2, 3) …, where the model turns (0, D/2), (1, D/2 + 1) …; so its converter interleaves the
    two halves of each head. A head of rows 0 2 1 3 in the file is 0 1 2 3 here.
    """
    return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)

"""A Llama comes out of a GGUF file as it went in, quantised or not; one that kqv would read wrongly is refused by name."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import parity
import pytest
import tiny_gguf
import torch
import transformers

import kqv
from kqv.checkpoints.gguf_file import GgufFile

Weights = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def reference() -> transformers.LlamaForCausalLM:
    return tiny_gguf.llama()


@pytest.fixture(scope="module")
def whole(reference: transformers.LlamaForCausalLM) -> dict[str, Any]:
    """All that a file says, tokenizer included."""
    return tiny_gguf.metadata(reference) | tiny_gguf.described(tiny_gguf.bpe("smollm"), "smollm")


@pytest.fixture
def file(tmp_path: Path, reference: transformers.LlamaForCausalLM, whole: dict[str, Any]) -> Path:
    return tiny_gguf.write(tmp_path / "model.gguf", whole, tiny_gguf.tensors(reference))


def theta(value: float = 500.0, **scaling: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": value, "rope_type": "default"} | scaling}


LINEAR = theta(rope_type="linear", factor=4.0)
LLAMA_3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
OLD = dict.fromkeys(f"llama.{key}" for key in ("vocab_size", "attention.key_length", "attention.value_length"))

# What is changed of the model, and of what the file says.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "tied": ({"tie_word_embeddings": True}, {}),
    "with biases": ({"attention_bias": True, "mlp_bias": True}, {}),
    "without groups": ({"num_key_value_heads": 3}, {"llama.attention.head_count_kv": None}),
    "with wide heads": ({"head_dim": 22}, {}),
    "as older converters have it": (
        {},
        OLD | {"llama.rope.dimension_count": None, "tokenizer.ggml.tokens": list(map(str, range(311)))},
    ),
    "with θ left out": (theta(10_000.0), {"llama.rope.freq_base": None}),
    "stretched": (LINEAR, {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_llama_equals_transformers(tmp_path: Path, name: str) -> None:
    changes, said = VARIANTS[name]
    reference = tiny_gguf.llama(**changes)
    file = tiny_gguf.write(tmp_path / "model.gguf", tiny_gguf.metadata(reference) | said, tiny_gguf.tensors(reference))
    parity.assert_one_sided_parity(kqv.load(file), reference)


def divisors(theta: float, width: int) -> np.ndarray:
    """By what Llama 3.1 divides each frequency, pair by pair, as llama.cpp's converter writes it into the file."""
    found = []
    for pair in range(width // 2):
        turns = 8192 * theta ** (-2 * pair / width) / (2 * math.pi)
        smooth = (turns - 1) / (4 - 1)
        found.append(8.0 if turns < 1 else 1.0 if turns > 4 else 1 / ((1 - smooth) / 8 + smooth))
    return np.array(found, dtype=np.float32)


def test_llama_3s_stretching_is_told_from_its_outcome(tmp_path: Path) -> None:
    reference = tiny_gguf.llama(**theta(1e5, rope_type="llama3", **LLAMA_3))
    stretch = divisors(1e5, 14)
    assert len({1.0, 8.0} & {*stretch.tolist()}) == 2 and len({*stretch.tolist()}) == 3
    weights = tiny_gguf.tensors(reference) | {"rope_freqs.weight": stretch}
    file = tiny_gguf.write(tmp_path / "model.gguf", tiny_gguf.metadata(reference), weights)
    parity.assert_one_sided_parity(kqv.load(file), reference)
    weights["rope_freqs.weight"] = stretch + np.linspace(0, 1, 7, dtype=np.float32)
    with pytest.raises(kqv.CheckpointError, match=r"otherwise than Llama 3\.1"):
        kqv.load(tiny_gguf.write(file, tiny_gguf.metadata(reference), weights))


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_quantised_weights_are_what_they_stand_for(tmp_path: Path, kind: str) -> None:
    reference = tiny_gguf.llama(hidden_size=96, intermediate_size=64, head_dim=32)
    weights = tiny_gguf.tensors(reference)
    file = tiny_gguf.write(tmp_path / "model.gguf", tiny_gguf.metadata(reference), weights, kind)
    with torch.no_grad():
        for parameter in (parameter for parameter in reference.parameters() if parameter.ndim == 2):
            chosen = tiny_gguf.quantisation(parameter.numpy(), kind)
            blocks = gguf.quants.quantize(parameter.numpy(), chosen)  # of whole rows, so that their order doesn't matter
            parameter.copy_(torch.from_numpy(gguf.quants.dequantize(blocks, chosen)))
    parity.assert_one_sided_parity(kqv.load(file), reference)


def test_rows_of_a_head_are_put_back_in_order(tmp_path: Path) -> None:
    reference = tiny_gguf.llama()
    weights = tiny_gguf.tensors(reference)
    file = tiny_gguf.write(tmp_path / "model.gguf", tiny_gguf.metadata(reference), weights)
    rows = kqv.load(file).transformer.decoder.layers[2].self_attention.in_projection.weight
    stored = weights["blk.2.attn_q.weight"]
    assert [stored[:14].tolist().index(row) for row in rows[:14].tolist()] == [0, 2, 4, 6, 8, 10, 12, 1, 3, 5, 7, 9, 11, 13]


def test_plain_weights_stay_in_the_file_and_what_is_tied_is_one(tmp_path: Path) -> None:
    reference = tiny_gguf.llama(tie_word_embeddings=True)
    path = tiny_gguf.write(tmp_path / "model.gguf", tiny_gguf.metadata(reference), tiny_gguf.tensors(reference))
    file = GgufFile(path)
    assert file["token_embd.weight"].data_ptr() == file["token_embd.weight"].data_ptr()
    transformer = kqv.load(path).transformer
    assert transformer.head.projection.weight is transformer.decoder.embedding.tokens.weight


def test_a_file_or_a_folder_with_one_file_is_a_model(file: Path) -> None:
    assert kqv.load(file).revision == kqv.load(file.parent).revision == kqv.load(str(file)).revision
    other = file.with_name("other.gguf")
    other.write_bytes(file.read_bytes())
    with pytest.raises(kqv.CheckpointError, match=r"holds model\.gguf, other\.gguf; name one of them"):
        kqv.load(file.parent)


def test_what_ends_a_generation(tmp_path: Path, reference: transformers.LlamaForCausalLM, whole: dict[str, Any]) -> None:
    said = whole | {"tokenizer.ggml.eot_token_id": 0}
    assert kqv.load(tiny_gguf.write(tmp_path / "model.gguf", said, tiny_gguf.tensors(reference))).config.end_tokens == (
        tiny_gguf.END,
        0,
    )


def test_without_a_tokenizer_ids_are_read_all_the_same(tmp_path: Path, reference: transformers.LlamaForCausalLM) -> None:
    file = tiny_gguf.write(tmp_path / "model.gguf", tiny_gguf.metadata(reference), tiny_gguf.tensors(reference))
    assert kqv.load(file).tokenizer is None
    assert len(kqv.load(file).read([5, 7])) == 2


Harm = dict[str, tuple[dict[str, Any], str]]
LACKING: Harm = {
    f"no {key}": ({f"llama.{key}": None}, rf"model\.gguf lacks llama\.{key}")
    for key in (
        "context_length",
        "embedding_length",
        "block_count",
        "feed_forward_length",
        "attention.head_count",
        "attention.layer_norm_rms_epsilon",
    )
}
CONTRADICTIONS: Harm = LACKING | {
    "another architecture": ({"general.architecture": "mamba"}, "general.architecture = 'mamba', where there should be .*llama"),
    "a width of text": ({"llama.embedding_length": "wide"}, "embedding_length = 'wide', where there should be a whole number"),
    "another width": ({"llama.feed_forward_length": 59}, r"hold blk\.0\.ffn_gate\.weight \[53, 42\] and .* \[118, 42\]"),
    "a width past all measure": ({"llama.feed_forward_length": 1 << 31}, "a width of 2147483648, but no tensor is wider than 311"),
    "more heads": ({"llama.attention.head_count": 4}, r"hold blk\.0\.attn_q\.weight \[42, 42\]"),
    "more layers": ({"llama.block_count": 1 << 31}, r"announces 2147483648 layers, but lacks blk\.2147483647"),
    "fewer layers": ({"llama.block_count": 2}, r"hold blk\.2\..* the metadata has no place"),
    "experts": ({"llama.expert_count": 8}, "expert_count = 8; kqv has no mixture of experts"),
    "a window": ({"llama.attention.sliding_window": 7}, "sliding_window = 7; kqv reads this architecture without"),
    "half-turned heads": ({"llama.rope.dimension_count": 6}, "dimension_count = 6; kqv reads heads that .* turned as a whole"),
    "values of another width": ({"llama.attention.value_length": 6}, "value_length = 6; kqv reads heads that are of one width"),
    "a window a layer": ({"llama.attention.sliding_window": [7, 0, 7]}, r"sliding_window = \[7, 0, 7\]; kqv reads"),
    "kinds of text": ({"tokenizer.ggml.token_type": ["1"] * 311}, "token_type is no array of 311 numbers"),
    "another stretching": ({"llama.rope.scaling.type": "yarn"}, "scaling.type = 'yarn', where there should be .*none, linear"),
    "one part of several": ({"split.count": 2}, "split.count = 2; the model is split over several files"),
    "another tokenizer": ({"tokenizer.ggml.model": "rwkv"}, "tokenizer.ggml.model = 'rwkv', .*gpt2, llama"),
    "another cut": ({"tokenizer.ggml.pre": "viking"}, "tokenizer.ggml.pre = 'viking', .*gpt-2, smollm"),
    "no cut": ({"tokenizer.ggml.pre": None}, "lacks tokenizer.ggml.pre"),
    "merges of nothing": ({"tokenizer.ggml.merges": ["qq qq"]}, "a tokenizer that contradicts itself: .*qq"),
    "tokens of nothing": ({"tokenizer.ggml.token_type": [1, 3]}, "token_type is no array of 311 numbers"),
    "more tokens than rows": ({"llama.vocab_size": 307}, "has 311 tokens, but a vocabulary of 307"),
    "an end past all tokens": (
        {"tokenizer.ggml.add_eos_token": True, "tokenizer.ggml.eos_token_id": 311},
        "eos_token_id names none of the 311 tokens",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_what_a_file_says_wrongly_is_named(tmp_path: Path, reference: Any, whole: dict[str, Any], name: str) -> None:
    changes, message = CONTRADICTIONS[name]
    with pytest.raises(kqv.CheckpointError, match=message):
        kqv.load(tiny_gguf.write(tmp_path / "model.gguf", whole | changes, tiny_gguf.tensors(reference)))


Change = Callable[[Weights], object]
TENSORS: dict[str, tuple[Change, str]] = {
    "one missing": (
        lambda weights: weights.pop("blk.1.attn_k.weight"),
        r"lack blk\.1\.attn_k\.weight, which the metadata calls for",
    ),
    "one too many": (lambda weights: weights.update(extra=np.zeros(3, np.float32)), "hold extra"),
    "whole numbers": (
        lambda weights: weights.update({"output_norm.weight": np.zeros(42, np.int32)}),
        "output_norm.* as I32, which kqv can't",
    ),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, reference: Any, name: str) -> None:
    change, message = TENSORS[name]
    weights = tiny_gguf.tensors(reference)
    change(weights)
    with pytest.raises(kqv.CheckpointError, match=message):
        kqv.load(tiny_gguf.write(tmp_path / "model.gguf", tiny_gguf.metadata(reference), weights))

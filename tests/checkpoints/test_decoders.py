"""GPT-2, Llama and its relatives, and BLOOM equal transformers' eager attention."""

from pathlib import Path
from typing import Any

import parity
import pytest
import tiny
import torch
import transformers
from transformers import BloomConfig, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

import kqv

ROPE = {"rope_theta": 500.0, "rope_type": "default"}
LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 40,
}
WINDOWS = {"use_sliding_window": True, "sliding_window": 7}
SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]

DECODERS: dict[str, tuple[Any, transformers.PreTrainedConfig]] = {
    "GPT-2": (transformers.GPT2LMHeadModel, GPT2Config(**tiny.GPT2, eos_token_id=3)),
    "GPT-2 without a head": (transformers.GPT2Model, GPT2Config(**tiny.GPT2)),
    "GPT-2 with an untied head": (transformers.GPT2LMHeadModel, GPT2Config(**tiny.GPT2, tie_word_embeddings=False)),
    "GPT-2 of fourfold width": (transformers.GPT2LMHeadModel, GPT2Config(**(tiny.GPT2 | {"n_inner": None}))),
    "GPT-2 with relu": (transformers.GPT2LMHeadModel, GPT2Config(**tiny.GPT2, activation_function="relu")),
    "GPT-2 with plain scores": (transformers.GPT2LMHeadModel, GPT2Config(**tiny.GPT2, scale_attn_weights=False)),
    "Llama": (transformers.LlamaForCausalLM, LlamaConfig(**tiny.LLAMA)),
    "Llama with a tied head": (transformers.LlamaForCausalLM, LlamaConfig(**tiny.LLAMA, tie_word_embeddings=True)),
    "Llama without a head": (transformers.LlamaModel, LlamaConfig(**tiny.LLAMA)),
    "Llama without groups": (transformers.LlamaForCausalLM, LlamaConfig(**(tiny.LLAMA | {"num_key_value_heads": 3}))),
    "Llama with biases": (transformers.LlamaForCausalLM, LlamaConfig(**tiny.LLAMA, attention_bias=True, mlp_bias=True)),
    "Llama with wide heads": (transformers.LlamaForCausalLM, LlamaConfig(**tiny.LLAMA, head_dim=22, hidden_act="gelu")),
    "Llama with another θ": (transformers.LlamaForCausalLM, LlamaConfig(**tiny.LLAMA, rope_parameters=ROPE)),
    "Llama stretched": (transformers.LlamaForCausalLM, LlamaConfig(**tiny.LLAMA, rope_parameters=ROPE | LINEAR)),
    "Llama 3": (transformers.LlamaForCausalLM, LlamaConfig(**tiny.LLAMA, rope_parameters=ROPE | LLAMA3)),
    "Mistral": (transformers.MistralForCausalLM, MistralConfig(**tiny.LLAMA, sliding_window=5)),
    "Mistral that sees only itself": (transformers.MistralForCausalLM, MistralConfig(**tiny.LLAMA, sliding_window=1)),
    "Mistral without windows": (transformers.MistralForCausalLM, MistralConfig(**tiny.LLAMA, sliding_window=None)),
    "Mistral with wide heads": (transformers.MistralForCausalLM, MistralConfig(**tiny.LLAMA, head_dim=22)),
    "Qwen2": (transformers.Qwen2ForCausalLM, Qwen2Config(**tiny.LLAMA, tie_word_embeddings=True)),
    "Qwen2 with upper windows": (transformers.Qwen2ForCausalLM, Qwen2Config(**tiny.LLAMA, **WINDOWS, max_window_layers=1)),
    "Qwen2 with listed windows": (transformers.Qwen2ForCausalLM, Qwen2Config(**tiny.LLAMA, **WINDOWS, layer_types=SLIDING)),
    "Qwen3": (transformers.Qwen3ForCausalLM, Qwen3Config(**tiny.LLAMA, head_dim=22)),
    "Qwen3 with biases": (transformers.Qwen3ForCausalLM, Qwen3Config(**tiny.LLAMA, head_dim=14, attention_bias=True)),
    "Qwen3 with windows": (transformers.Qwen3ForCausalLM, Qwen3Config(**tiny.LLAMA, head_dim=14, **WINDOWS, layer_types=SLIDING)),
    "BLOOM": (transformers.BloomForCausalLM, BloomConfig(**tiny.BLOOM)),
    "BLOOM of 4 heads": (transformers.BloomForCausalLM, BloomConfig(**(tiny.BLOOM | {"n_head": 4, "hidden_size": 28}))),
    "BLOOM of 11 heads": (transformers.BloomModel, BloomConfig(**(tiny.BLOOM | {"n_head": 11, "hidden_size": 77}))),
}


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_equal_transformers(tmp_path: Path, name: str) -> None:
    reference = tiny.save(tmp_path, *DECODERS[name], std=0.2)
    parity.assert_one_sided_parity(kqv.load(tmp_path), reference)


def llama(directory: Path, **changes: object) -> kqv.ModelConfig:
    """The config of a Llama whose config.json says something else; None leaves a field out."""
    tiny.save(directory, transformers.LlamaForCausalLM, LlamaConfig(**tiny.LLAMA))
    tiny.rewrite_config(directory, **changes)
    return kqv.load(directory).config


@pytest.mark.parametrize(
    ("new", "old"),
    [
        (ROPE, {"rope_theta": 500.0}),
        (ROPE, {"rope_theta": 500, "rope_scaling": {}}),
        (ROPE | LINEAR, {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 4}}),
        (ROPE | LLAMA3, {"rope_theta": 500.0, "rope_scaling": LLAMA3}),
        ({"rope_type": "default"}, {"rope_theta": 10000.0}),
        (None, {}),
    ],
)
def test_both_dialects_of_rotary_positions_are_read(tmp_path: Path, new: object, old: dict[str, object]) -> None:
    of_transformers_5 = llama(tmp_path, rope_parameters=new)
    of_transformers_4 = llama(tmp_path, rope_parameters=None, **old)
    assert of_transformers_5 == of_transformers_4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "type = 'dynamic'.* kqv reads: default, linear, llama3"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_scaling of config.json has rope_type = 'yarn'"),
        ({"rope_parameters": ROPE | {"rope_type": "longrope"}}, "rope_parameters of config.json has rope_type = 'longrope'"),
        ({"rope_parameters": {"full_attention": ROPE}}, "kqv turns all layers alike"),
        ({"rope_parameters": ROPE | {"partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5; kqv turns the whole"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling of config.json lacks factor"),
        ({"rope_scaling": {"type": "linear", "factor": -2}}, "factor = -2"),
        ({"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}}, "must be under"),
        ({"rope_scaling": "linear"}, "rope_scaling = 'linear', where there should be an object"),
        ({"rope_theta": "big", "rope_parameters": None}, "rope_theta = 'big'"),
        ({"head_dim": 15}, "turn pairs"),
        ({"num_key_value_heads": 2}, "2 key/value heads don't divide 3 heads"),
        ({"attention_bias": True}, r"lack model\.layers\.0\.self_attn\.k_proj\.bias"),
        ({"tie_word_embeddings": True, "vocab_size": 89}, r"\[97, 42\].*calls for \[89, 42\]"),
    ],
)
def test_a_llama_that_cannot_be_read_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(kqv.CheckpointError, match=message):
        llama(tmp_path, **changes)


def test_an_untied_head_that_is_missing_is_named(tmp_path: Path) -> None:
    llama(tmp_path)
    tiny.rewrite_tensors(tmp_path, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(kqv.CheckpointError, match=r"lack lm_head\.weight"):
        kqv.load(tmp_path)
    tiny.rewrite_config(tmp_path, architectures=["LlamaModel"])
    assert kqv.load(tmp_path).config.head == "none"


def test_windows_left_out_are_those_of_transformers(tmp_path: Path) -> None:
    tiny.save(tmp_path, transformers.MistralForCausalLM, MistralConfig(**tiny.LLAMA))
    tiny.rewrite_config(tmp_path, sliding_window=None)
    assert kqv.load(tmp_path).config.windows == (4096,) * 3
    tiny.save(tmp_path, transformers.Qwen2ForCausalLM, Qwen2Config(**tiny.LLAMA))
    tiny.rewrite_config(tmp_path, use_sliding_window=True, sliding_window=5, max_window_layers=2, layer_types=None)
    assert kqv.load(tmp_path).config.windows == (0, 0, 5)
    tiny.rewrite_config(tmp_path, max_window_layers=0)
    assert kqv.load(tmp_path).config.windows == (5, 5, 5)


@pytest.mark.parametrize(
    ("layer_types", "message"),
    [
        (SLIDING[:2], "2 windows are given for 3 decoder layers"),
        (["full_attention"] * 2 + ["chunked_attention"], "a list of full_attention and sliding_attention"),
    ],
)
def test_windows_that_cannot_be_read_are_refused(tmp_path: Path, layer_types: list[str], message: str) -> None:
    tiny.save(tmp_path, transformers.Qwen2ForCausalLM, Qwen2Config(**tiny.LLAMA))
    tiny.rewrite_config(tmp_path, layer_types=layer_types, use_sliding_window=True, sliding_window=5)
    with pytest.raises(kqv.CheckpointError, match=message):
        kqv.load(tmp_path)


def test_buffers_of_older_files_are_no_weights(tmp_path: Path) -> None:
    reference = tiny.save(tmp_path, *DECODERS["GPT-2"], std=0.2)
    masks = {f"transformer.h.{layer}.attn.bias": torch.ones(1, 1, 41, 41, dtype=torch.bool) for layer in range(3)}
    masks |= {f"transformer.h.{layer}.attn.masked_bias": torch.tensor(-1e4) for layer in range(3)}
    tiny.rewrite_tensors(tmp_path, lambda tensors: tensors.update(masks))
    parity.assert_one_sided_parity(kqv.load(tmp_path), reference)
    llama(tmp_path)
    tiny.rewrite_tensors(tmp_path, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(7)}))
    assert kqv.load(tmp_path).config.head == "linear"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("GPT-2", {"scale_attn_by_inverse_layer_idx": True}, "kqv scales the scores of all layers alike"),
        ("GPT-2", {"add_cross_attention": True}, "kqv reads the decoder alone"),
        ("GPT-2", {"n_embd": None}, "lacks n_embd"),
        ("GPT-2", {"n_embd": 40}, r"\[41, 35\].*calls for \[41, 40\]"),
        ("BLOOM", {"apply_residual_connection_post_layernorm": True}, "kqv adds to what came before the norm"),
        ("BLOOM", {"n_head": 2}, "2 heads don't divide a width of 35"),
    ],
)
def test_what_kqv_does_not_do_is_refused(tmp_path: Path, name: str, changes: dict[str, object], message: str) -> None:
    tiny.save(tmp_path, *DECODERS[name])
    tiny.rewrite_config(tmp_path, **changes)
    with pytest.raises(kqv.CheckpointError, match=message):
        kqv.load(tmp_path)

"""Models that no reader of ours knows, through transformers: equal to its eager attention and to our own readers, or refused."""

import dataclasses
import json
import shutil
import socket
import sys
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import httpx
import parity
import pytest
import tiny
import torch
import transformers
from serving import listening, make_app

import kqv
from kqv.checkpoints.files import read_json, read_tensors
from kqv.checkpoints.hf_directory import read_foreign
from kqv.diagnostics import DIAGNOSTICS

GROUPED = {
    "vocab_size": tiny.VOCABULARY,
    "hidden_size": 42,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "intermediate_size": 53,
    "max_position_embeddings": tiny.CONTEXT,
    "pad_token_id": 0,
}
"""Three query heads to each head of keys and values."""
EXPERTS = GROUPED | {"hidden_size": 48, "head_dim": 8, "intermediate_size": 24}
"""Of sizes that torch's grouped matrix products take."""
HALF_TURNED = GROUPED | {"hidden_size": 48, "partial_rotary_factor": 0.5}
ENCODER = tiny.BERT | {"pad_token_id": 0}
BART = {
    "vocab_size": tiny.VOCABULARY,
    "d_model": 42,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 53,
    "decoder_ffn_dim": 47,
    "max_position_embeddings": tiny.CONTEXT,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}

ONE_SIDED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ModernBERT": ("ModernBertForMaskedLM", "ModernBertConfig", GROUPED | SPECIAL | {"hidden_size": 60, "local_attention": 6}),
    "EuroBERT": ("EuroBertForMaskedLM", "EuroBertConfig", GROUPED | SPECIAL | {"hidden_size": 60, "mask_token_id": 3}),
    "ELECTRA": ("ElectraForMaskedLM", "ElectraConfig", ENCODER | {"embedding_size": 23}),
    "ALBERT": ("AlbertForMaskedLM", "AlbertConfig", ENCODER | {"embedding_size": 23, "inner_group_num": 1}),
    "CamemBERT": ("CamembertForMaskedLM", "CamembertConfig", ENCODER | {"max_position_embeddings": tiny.CONTEXT + 1}),
    "Gemma": ("GemmaForCausalLM", "GemmaConfig", GROUPED | {"head_dim": 10}),
    "Gemma 2": (
        "Gemma2ForCausalLM",
        "Gemma2Config",
        GROUPED | {"head_dim": 10, "sliding_window": 5, "attn_logit_softcapping": 3.0},
    ),
    "Gemma 3": ("Gemma3ForCausalLM", "Gemma3TextConfig", GROUPED | {"head_dim": 10, "sliding_window": 5}),
    "OPT": (
        "OPTForCausalLM",
        "OPTConfig",
        {
            "vocab_size": tiny.VOCABULARY,
            "hidden_size": 35,
            "num_attention_heads": 5,
            "num_hidden_layers": 3,
            "ffn_dim": 53,
            "max_position_embeddings": tiny.CONTEXT,
            "word_embed_proj_dim": 23,
        },
    ),
    "GPT-NeoX": ("GPTNeoXForCausalLM", "GPTNeoXConfig", HALF_TURNED),
    "GPTBigCode": ("GPTBigCodeForCausalLM", "GPTBigCodeConfig", tiny.GPT2),
    "Phi": ("PhiForCausalLM", "PhiConfig", HALF_TURNED),
    "Phi-3": ("Phi3ForCausalLM", "Phi3Config", GROUPED | {"head_dim": 10, "hidden_size": 60, "sliding_window": 5}),
    "Qwen3-MoE": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        EXPERTS | {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    ),
    "Mixtral": ("MixtralForCausalLM", "MixtralConfig", EXPERTS | {"num_local_experts": 5}),
    "Cohere": ("CohereForCausalLM", "CohereConfig", GROUPED | {"hidden_size": 60}),
    "StableLM": ("StableLmForCausalLM", "StableLmConfig", HALF_TURNED),
    "Granite": ("GraniteForCausalLM", "GraniteConfig", GROUPED | {"hidden_size": 60, "attention_multiplier": 0.3}),
    "OLMo 2": ("Olmo2ForCausalLM", "Olmo2Config", GROUPED | {"hidden_size": 60}),
    "Starcoder 2": ("Starcoder2ForCausalLM", "Starcoder2Config", GROUPED | {"hidden_size": 60, "sliding_window": 5}),
    "SmolLM3": ("SmolLM3ForCausalLM", "SmolLM3Config", GROUPED | {"hidden_size": 60}),
    "BitNet": ("BitNetForCausalLM", "BitNetConfig", GROUPED | {"hidden_size": 60}),
    "GLM-4": ("Glm4ForCausalLM", "Glm4Config", GROUPED | {"head_dim": 10}),
}
TWO_SIDED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "BART": ("BartForConditionalGeneration", "BartConfig", BART),
    "mBART": ("MBartForConditionalGeneration", "MBartConfig", BART),
    "Marian": ("MarianMTModel", "MarianConfig", BART),
    "Pegasus": ("PegasusForConditionalGeneration", "PegasusConfig", BART),
    "M2M100": ("M2M100ForConditionalGeneration", "M2M100Config", BART),
    "umT5": ("UMT5ForConditionalGeneration", "UMT5Config", tiny.T5),
}
OURS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "BERT": ("BertForMaskedLM", "BertConfig", tiny.BERT),
    "GPT-2": ("GPT2LMHeadModel", "GPT2Config", tiny.GPT2),
    "Llama": ("LlamaForCausalLM", "LlamaConfig", tiny.LLAMA),
    "T5": ("T5ForConditionalGeneration", "T5Config", tiny.T5 | {"decoder_start_token_id": 0}),
}
KINDS = ONE_SIDED | TWO_SIDED | OURS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models so small take several times as long on two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


Pair = tuple[kqv.Model, Any]


@pytest.fixture(scope="module")
def pairs(folder: Path) -> Any:
    """A model through transformers, and transformers' own of the same checkpoint, by name; each is made once."""

    @cache
    def make(name: str) -> Pair:
        torch.manual_seed(0)
        reference = save(folder / name, *KINDS[name])
        return (kqv.load(folder / name) if name not in OURS else adapt(folder / name)), reference

    return make


def save(directory: Path, kind: str, config: str, fields: dict[str, Any]) -> Any:
    """A random model, as transformers reads it: tables of sines, for one, are not in the file."""
    tiny.save(directory, getattr(transformers, kind), getattr(transformers, config)(**fields), std=0.15)
    return getattr(transformers, kind).from_pretrained(directory, attn_implementation="eager").eval()


def adapt(directory: Path) -> kqv.Model:
    """A checkpoint that a reader of ours knows, through transformers all the same."""
    said = read_json(directory / "config.json")
    network = read_foreign(directory, said, read_tensors(directory))
    return dataclasses.replace(kqv.load(directory, device="cpu"), transformer=network)


@pytest.mark.parametrize("name", ONE_SIDED)
def test_equals_transformers_alone_and_in_a_batch(pairs: Any, name: str) -> None:
    parity.assert_one_sided_parity(*pairs(name))


@pytest.mark.parametrize("name", TWO_SIDED)
def test_both_sides_equal_transformers_alone_and_in_a_batch(pairs: Any, name: str) -> None:
    model, reference = pairs(name)
    parity.assert_two_sided_parity(model, partial(parity.expect_both, reference))


EVERYTHING = ("hidden", "pooled", "q", "k", "v", "scaled_scores", "head_outputs")
SELECTIONS = [
    kqv.Selection(diagnostics=tuple(DIAGNOSTICS), outputs=EVERYTHING),
    kqv.Selection(weights="top", top_k=3, layers=(-1, 0), heads=(2, 0), per_query=True, outputs=("logits",)),
    kqv.Selection(weights="pooled", pool=2, queries=(1, 3), keys=(0, 2), diagnostics="none"),
    kqv.Selection(weights="none", diagnostics=("entropy",), outputs=()),
]


@pytest.mark.parametrize("name", OURS)
def test_equals_our_own_reader_in_all_that_can_be_asked(pairs: Any, folder: Path, name: str) -> None:
    theirs, _ = pairs(name)
    ours = kqv.load(folder / name)
    shared = ("architecture", "vocabulary_size", "context", "d_model", "d_head", "num_heads", "token_types", "end_tokens", "groups")
    assert [getattr(theirs.config, field) for field in shared] == [getattr(ours.config, field) for field in shared]
    assert theirs.parameters == ours.parameters
    inputs = [inputs_for(ours, ids) for ids in parity.draw((7, 3, 7, 23))]
    for selection in SELECTIONS:
        jobs = [kqv.Job(ours.read(given), selection) for given in inputs]
        for found, expected in zip(theirs.analyze_jobs(jobs), ours.analyze_jobs(jobs), strict=True):
            assert_same(found, expected)
    assert_same(theirs.forward(inputs), ours.forward(inputs))


def inputs_for(model: kqv.Model, ids: list[int]) -> kqv.Input:
    return kqv.Input(tokens=ids, target=ids[:3] if model.config.architecture == "encoder-decoder" else None)


def assert_same(found: object, expected: object) -> None:
    """Two results, field by field: attention within 1e-5, hidden states and all else within 1e-4."""
    match expected:
        case torch.Tensor():
            assert found.shape == expected.shape
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4, equal_nan=True)
        case kqv.Checks():
            assert found.row_sum_error < 1e-6
            assert found.forbidden_mass == 0
        case dict():
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                assert_same(found[name], value)
        case list() | tuple():
            for one, other in zip(found, expected, strict=True):
                assert_same(one, other)
        case kqv.GroupAnalysis():
            assert_same(vars(found), vars(expected))
            if expected.weights is not None:
                torch.testing.assert_close(found.weights, expected.weights, rtol=0, atol=1e-5)
        case kqv.Analysis() | kqv.TopWeights():
            assert_same(vars(found), vars(expected))
        case _:
            assert found == expected


@pytest.mark.parametrize("name", ["GPT-2", "Llama", "T5"])
def test_generates_what_our_own_reader_generates(pairs: Any, folder: Path, name: str) -> None:
    theirs, _ = pairs(name)
    options = {"selection": kqv.Selection(outputs=()), "max_new_tokens": 9}
    prompts = parity.draw((6, 1, 6, 11))
    for found, expected in zip(
        theirs.generate(prompts, **options), kqv.load(folder / name).generate(prompts, **options), strict=True
    ):
        assert found.token_ids == expected.token_ids
        assert_same(found.attention, expected.attention)


@pytest.mark.parametrize("name", ["Gemma 2", "OPT", "Qwen3-MoE", "BART", "Marian"])
def test_greedy_text_equals_transformers_and_its_steps_the_whole_pass(pairs: Any, name: str) -> None:
    model, reference = pairs(name)
    prompts = parity.draw((6, 1, 6, 11))
    for prompt, found in zip(prompts, model.generate(prompts, selection=kqv.Selection(outputs=()), max_new_tokens=12), strict=True):
        assert list(found.token_ids) == written_by_transformers(reference, prompt, 12)
        read = found.token_ids[:-1]
        two_sided = model.config.architecture == "encoder-decoder"
        given = kqv.Input(tokens=prompt, target=[model.config.start_token, *read]) if two_sided else [*prompt, *read]
        [whole] = model.analyze([given], outputs=())
        for group, seen in found.attention.items():
            torch.testing.assert_close(seen.weights, whole.attention[group].weights, **parity.WEIGHTS)
            torch.testing.assert_close(seen.diagnostics, whole.attention[group].diagnostics, rtol=0, atol=1e-4, equal_nan=True)


def written_by_transformers(reference: Any, prompt: list[int], count: int) -> list[int]:
    """Greedy ids, without the prompt or the start token."""
    reference.generation_config.forced_eos_token_id = None
    with torch.inference_mode():
        given = {"attention_mask": torch.ones(1, len(prompt), dtype=torch.long), "num_beams": 1, "do_sample": False}
        ids = reference.generate(torch.tensor([prompt]), max_new_tokens=count, **given)[0].tolist()
    return ids[1:] if reference.config.is_encoder_decoder else ids[len(prompt) :]


def test_without_a_target_an_encoder_decoder_reads_its_own_greedy_text(pairs: Any) -> None:
    model, _ = pairs("BART")
    [prompt] = parity.draw((6,))
    [found] = model.analyze([prompt])
    [written] = model.generate([prompt], max_new_tokens=model.config.context - 1)
    ids = written.token_ids[:-1] if written.finish_reason == "end" else written.token_ids
    assert found.target_token_ids == (model.config.start_token, *ids)


@pytest.mark.parametrize("name", ["ModernBERT", "ALBERT", "Gemma", "OPT"])
def test_embeddings_of_the_tokens_give_what_the_tokens_give(pairs: Any, name: str) -> None:
    model, reference = pairs(name)
    first, second = parity.draw((7, 7))
    vectors = reference.get_input_embeddings()(torch.tensor(first)).detach()
    [of_ids, other] = model.analyze([first, second])
    [of_vectors, unmoved] = model.analyze([vectors, second])
    torch.testing.assert_close(of_vectors.hidden, of_ids.hidden, **parity.HIDDEN)
    torch.testing.assert_close(unmoved.hidden, other.hidden, **parity.HIDDEN)
    assert of_vectors.token_ids is None
    with pytest.raises(kqv.InputError, match=rf"embeddings are \[tokens, {vectors.shape[1]}\] for this model, not \[7, 3\]"):
        model.analyze([torch.zeros(7, 3)])


def test_second_segments_equal_transformers(pairs: Any, folder: Path) -> None:
    _, reference = pairs("ELECTRA")
    tiny.wordpiece(folder / "ELECTRA" / "tokenizer.json")
    model = kqv.load(folder / "ELECTRA")
    [alone, found] = model.analyze(["the cat sat", kqv.Input(text="the cat sat", pair="who saw it?")])
    assert found.tokens == ("[CLS]", "the", "cat", "sat", "[SEP]", "who", "saw", "it", "?", "[SEP]")
    with torch.inference_mode():
        ids, types = torch.tensor([found.token_ids]), torch.tensor([[0] * 5 + [1] * 5])
        expected = reference.base_model(ids, token_type_ids=types, output_attentions=True)
    torch.testing.assert_close(found.attention["encoder"].weights, torch.cat(expected.attentions), **parity.WEIGHTS)
    torch.testing.assert_close(found.hidden, expected.last_hidden_state[0], **parity.HIDDEN)
    assert len(alone.hidden) == 5


def test_capped_scores_are_the_ones_that_the_weights_are_made_of(pairs: Any) -> None:
    model, _ = pairs("Gemma 2")
    [found] = model.analyze(parity.draw((11,)), outputs=("q", "k", "scaled_scores"))
    group = found.attention["decoder"]
    raw = group.q @ group.k.mT * model.transformer.model.config.query_pre_attn_scalar**-0.5
    seen = group.scaled_scores.isfinite()
    torch.testing.assert_close(group.scaled_scores[seen], (3 * (raw / 3).tanh())[seen], rtol=0, atol=1e-5)
    assert raw[seen].abs().max() > 3
    torch.testing.assert_close(group.scaled_scores.softmax(-1), group.weights, **parity.WEIGHTS)


@torch.inference_mode()
def test_output_norms_are_those_of_the_projected_heads(pairs: Any) -> None:
    """BERT's projection is in another module than its attention, GPT-2's is transposed; XLM-R's kind starts late in its table."""
    model, reference = pairs("CamemBERT")
    [found] = model.analyze(parity.draw((5,)), outputs=("head_outputs",))
    group = found.attention["encoder"]
    for layer, block in enumerate(reference.base_model.encoder.layer):
        w_o = block.attention.output.dense.weight.unflatten(1, (5, 7))
        norms = torch.einsum("hnd,whd->hnw", group.head_outputs[layer], w_o).norm(dim=-1).mean(-1)
        torch.testing.assert_close(group.diagnostics["output_norm"][layer], norms, rtol=1e-4, atol=1e-5)
    assert model.config.context == tiny.CONTEXT
    with pytest.raises(kqv.InputError, match="42 tokens, 1 more than the model's context of 41"):
        model.analyze([[5] * 42])


def test_heads_that_no_linear_map_reads_add_nothing_that_is_defined(pairs: Any) -> None:
    """BitNet has a norm between its heads and their projection, so that what one of them adds depends on the others."""
    model, _ = pairs("BitNet")
    [found] = model.analyze(parity.draw((5,)))
    diagnostics = found.attention["decoder"].diagnostics
    assert diagnostics["output_norm"].isnan().all()
    assert diagnostics["entropy"].isfinite().all()


def test_sequences_of_one_length_share_a_pass(pairs: Any) -> None:
    model, _ = pairs("Gemma")
    passes: list[tuple[int, ...]] = []
    hook = model.transformer.decoder.body.layers[0].register_forward_pre_hook(lambda _, given: passes.append(given[0].shape[:2]))
    model.analyze(parity.draw((7, 3, 7, 3, 3)))
    hook.remove()
    assert passes == [(2, 7), (3, 3)]


def test_half_precision_leaves_the_rotations_alone(pairs: Any, folder: Path) -> None:
    exact, _ = pairs("Gemma 2")
    model = kqv.load(folder / "Gemma 2", dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    [buffer] = [buffer for name, buffer in model.transformer.named_buffers() if name.endswith("rotary_emb.inv_freq")]
    [expected] = [buffer for name, buffer in exact.transformer.named_buffers() if name.endswith("rotary_emb.inv_freq")]
    torch.testing.assert_close(buffer, expected, rtol=0, atol=0)
    [ids] = parity.draw((31,))
    [found], [plain] = model.analyze([ids], layers=(0,)), model.analyze([ids], weights="none", diagnostics="none")
    assert found.hidden.dtype == torch.bfloat16
    torch.testing.assert_close(found.hidden, plain.hidden, rtol=0, atol=0.5)
    torch.testing.assert_close(
        found.attention["decoder"].weights, exact.analyze([ids], layers=(0,))[0].attention["decoder"].weights, rtol=0, atol=0.05
    )


@pytest.fixture(scope="module")
def client(pairs: Any) -> Iterator[httpx.Client]:
    model, _ = pairs("Gemma")
    with listening(make_app(model)) as url, httpx.Client(base_url=url, timeout=30) as session:
        yield session


def test_over_http_it_is_a_model_like_any_other(client: httpx.Client, pairs: Any) -> None:
    model, _ = pairs("Gemma")
    [card] = client.get("/v1/models").json()["data"]
    assert (card["architecture"], card["groups"], card["heads"], card["parameters"]) == (
        "decoder",
        {"decoder": 3},
        6,
        model.parameters,
    )
    first, second = parity.draw((7, 3))
    answer = client.post("/v1/analyze", json={"input": [first, second], "outputs": ["logits"]}).raise_for_status().json()
    for found, expected in zip(answer["results"], model.analyze([first, second], outputs=("logits",)), strict=True):
        weights = torch.tensor(found["attention"]["decoder"]["weights"])
        torch.testing.assert_close(weights, expected.attention["decoder"].weights, **parity.WEIGHTS)
        torch.testing.assert_close(torch.tensor(found["logits"]), expected.logits, **parity.HIDDEN)
    written = client.post("/v1/generate", json={"input": [first], "max_new_tokens": 5}).raise_for_status().json()
    assert written["results"][0]["token_ids"] == list(model.generate([first], max_new_tokens=5)[0].token_ids)


ELSEWHERE = "attend through transformers' registry of attention functions; the others have attention of their own, or none"
REFUSED: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "DeBERTa": ("DebertaV2ForMaskedLM", "DebertaV2Config", ENCODER, f"0 of its 3 layers {ELSEWHERE}"),
    "MPNet": ("MPNetForMaskedLM", "MPNetConfig", ENCODER, f"0 of its 3 layers {ELSEWHERE}"),
    "XLM": (
        "XLMWithLMHeadModel",
        "XLMConfig",
        {"vocab_size": 97, "emb_dim": 35, "n_layers": 3, "n_heads": 5, "max_position_embeddings": 41},
        f"0 of its 3 layers {ELSEWHERE}",
    ),
    "Mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        {"vocab_size": 97, "hidden_size": 35, "num_hidden_layers": 3},
        f"0 of its 3 layers {ELSEWHERE}",
    ),
    "LFM2, in part a convolution": (
        "Lfm2ForCausalLM",
        "Lfm2Config",
        GROUPED | {"hidden_size": 60, "layer_types": ["conv", "full_attention", "conv"]},
        f"1 of its 3 layers {ELSEWHERE}",
    ),
    "Falcon": (
        "FalconForCausalLM",
        "FalconConfig",
        {"vocab_size": 97, "hidden_size": 60, "num_attention_heads": 6, "num_hidden_layers": 3},
        "it chooses among attention functions of its own, not from transformers' registry",
    ),
    "gpt-oss": ("GptOssForCausalLM", "GptOssConfig", EXPERTS | {"num_local_experts": 4}, "its heads have sinks: a share of each"),
    "DeepSeek V3": (
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        {
            "vocab_size": tiny.VOCABULARY,
            "hidden_size": 48,
            "num_attention_heads": 6,
            "num_key_value_heads": 6,
            "num_hidden_layers": 3,
            "intermediate_size": 53,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "n_routed_experts": 4,
            "moe_intermediate_size": 24,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
        },
        "its values are 8 wide and its queries 12",
    ),
    "ViT": (
        "ViTModel",
        "ViTConfig",
        {"hidden_size": 35, "num_attention_heads": 5, "num_hidden_layers": 2, "intermediate_size": 53, "image_size": 32},
        "it reads pixel_values, and kqv serves models of text alone",
    ),
    "longrope": (
        "Phi3ForCausalLM",
        "Phi3Config",
        GROUPED
        | {
            "hidden_size": 60,
            "original_max_position_embeddings": 20,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "short_factor": [1.0] * 5,
                "long_factor": [2.0] * 5,
                "original_max_position_embeddings": 20,
            },
        },
        "its rotary positions are of kind 'longrope', which change with the length of the text",
    ),
    "heads of two numbers": (
        "BartForConditionalGeneration",
        "BartConfig",
        BART | {"encoder_attention_heads": 6},
        "its two sides have heads of different numbers or widths",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exact_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    kind, config, fields, message = REFUSED[name]
    save(tmp_path, kind, config, fields)
    with pytest.raises(kqv.CheckpointError) as caught:
        kqv.load(tmp_path)
    assert f"through transformers: {message}" in str(caught.value)


@pytest.fixture
def gemma(folder: Path, pairs: Any, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    pairs("Gemma 2")
    return shutil.copytree(folder / "Gemma 2", tmp_path / "gemma")


DAMAGE: dict[str, tuple[Any, str]] = {
    "an unknown kind": (
        lambda d: tiny.rewrite_config(d, model_type="mine", auto_map={"AutoModel": "modeling_mine.Mine"}),
        r"model_type = 'mine', .* kqv reads: bert, .*, or one of those of transformers; code that comes with a model is never run",
    ),
    "an unknown class": (
        lambda d: tiny.rewrite_config(d, architectures=["Gemma9"]),
        "it is a Gemma9, which transformers .* doesn't",
    ),
    "a class of another kind": (lambda d: tiny.rewrite_config(d, architectures=["OPTModel"]), "it is a OPTModel, which"),
    "a config of several parts": (
        lambda d: tiny.rewrite_config(d, model_type="gemma3", architectures=["Gemma3ForConditionalGeneration"]),
        "its config is put together of .*vision_config",
    ),
    "a missing tensor": (
        lambda d: tiny.rewrite_tensors(d, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight")),
        r"the weights lack model\.layers\.1\.mlp\.up_proj\.weight",
    ),
    "an extra tensor": (
        lambda d: tiny.rewrite_tensors(d, lambda tensors: tensors.update(extra=torch.zeros(1))),
        "the weights hold extra, which have no place",
    ),
    "another width": (lambda d: tiny.rewrite_config(d, intermediate_size=47), "through transformers: RuntimeError: .*mismatch"),
    "a width past all measure": (lambda d: tiny.rewrite_config(d, hidden_size=10**12), f"hidden_size = {10**12}, but no tensor is"),
    "layers past all number": (
        lambda d: tiny.rewrite_config(d, num_hidden_layers=10**9),
        "num_hidden_layers = 1000000000, but there",
    ),
    "a width of text": (lambda d: tiny.rewrite_config(d, hidden_size="wide"), "through transformers: "),
    "quantised": (lambda d: tiny.rewrite_config(d, quantization_config={"bits": 4}), "quantization_config"),
    "no weights but a pickle": (
        lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"),
        r"pytorch_model\.bin is a pickle, which kqv never reads",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused_by_name(gemma: Path, damage: str) -> None:
    harm, message = DAMAGE[damage]
    harm(gemma)
    with pytest.raises(kqv.CheckpointError, match=message):
        kqv.load(gemma)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("bias_of", "the decoder weights of layer 0 are off by .* from those of transformers' eager attention"),
        ("output", "the hidden states are off by"),
        ("cache", "with a cache the hidden states are off by"),
        ("head", "the logits are off by"),
    ],
)
def test_what_disagrees_with_eager_attention_is_refused(
    gemma: Path, monkeypatch: pytest.MonkeyPatch, broken: str, message: str
) -> None:
    """Should a release of transformers mean another thing by the same call, no figure comes of it."""
    from kqv.huggingface import memory, network, registry

    attention = registry.attention
    match broken:
        case "bias_of":
            monkeypatch.setattr(registry, "bias_of", lambda *given: None)
        case "output":
            monkeypatch.setattr(
                registry,
                "attention",
                lambda layer, *given, **more: (attention(layer, *given, **more)[0] + layer.layer_idx // 2, None),
            )
        case "cache":
            monkeypatch.setattr(memory.Layer, "get_seq_length", lambda layer: 0)
        case "head":
            logits = network.TransformersNetwork.logits
            monkeypatch.setattr(network.TransformersNetwork, "logits", lambda *given: logits(*given) + 1)
    with pytest.raises(kqv.CheckpointError, match=message):
        kqv.load(gemma)


def test_neither_code_nor_the_network_is_asked(gemma: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        raise AssertionError(f"a model may not do this: {given}")

    (gemma / "modeling_gemma2.py").write_text("raise AssertionError('code that came with the model was run')")
    tiny.rewrite_config(gemma, auto_map={"AutoModelForCausalLM": "modeling_gemma2.Mine"}, _name_or_path="someone/something")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert len(kqv.load(gemma).analyze([[5, 6]])) == 1


def test_without_transformers_its_models_say_what_to_install(gemma: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("kqv.huggingface")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(kqv.CheckpointError, match=r"model_type = 'gemma2', .* pip install 'kqv\[transformers\]'"):
        kqv.load(gemma)


def test_a_discriminator_gives_no_logits(tmp_path: Path) -> None:
    save(tmp_path, "ElectraForPreTraining", "ElectraConfig", ENCODER)
    model = kqv.load(tmp_path)
    assert model.config.head == "none"
    with pytest.raises(kqv.UnsupportedError, match="has no language-model head"):
        model.analyze([[5, 6]], outputs=("logits",))
    with pytest.raises(kqv.UnsupportedError, match="writes no text"):
        model.generate([[5, 6]])


def test_without_a_class_the_bare_model_is_read(tmp_path: Path) -> None:
    reference = save(tmp_path, "GemmaModel", "GemmaConfig", KINDS["Gemma"][2])
    tiny.rewrite_config(tmp_path, architectures=None)
    model = kqv.load(tmp_path)
    [ids] = parity.draw((7,))
    [found] = model.analyze([ids])
    with torch.inference_mode():
        torch.testing.assert_close(found.hidden, reference(torch.tensor([ids])).last_hidden_state[0], **parity.HIDDEN)
    assert model.config.head == "none"


def test_what_the_directory_says_beside_the_model_counts(gemma: Path) -> None:
    (gemma / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    (gemma / "modules.json").write_text(json.dumps([{"type": "models.Transformer"}, {"type": "models.Normalize"}]))
    model = kqv.load(gemma)
    assert model.config.end_tokens[-2:] == (7, 9)
    [found] = model.analyze([[5, 6]], outputs=("pooled",))
    torch.testing.assert_close(found.pooled.norm(), torch.tensor(1.0), rtol=0, atol=1e-6)

"""A step of decoding in C gives the numbers of the same step in torch."""

from typing import Any

import pytest
import tiny
import torch

import kqv
from kqv.batch import pack_ids
from kqv.cache import Cache
from kqv.config import ModelConfig, RopeScaling
from kqv.decoding import Plan, plan
from kqv.generate import advance, begin, finish
from kqv.inputs import TokenSequence
from kqv.native.library import library
from kqv.transformer import Transformer

pytestmark = pytest.mark.skipif(library() is None, reason="there is no C compiler here")

PROMPTS = [(5, 11, 7, 3, 29, 17), (2,), (41, 42, 43, 41, 42, 43, 41, 48, 49, 50, 51), (1, 1), (7,) * 17]
BASE: dict[str, Any] = {
    "architecture": "decoder",
    "vocabulary_size": 97,
    "context": 41,
    "d_model": 35,
    "num_heads": 5,
    "decoder_layers": 3,
    "d_feed_forward": 53,
    "norm_placement": "pre",
    "norm_epsilon": 0.02,
    "head": "linear",
}
STRETCHED = RopeScaling(kind="llama3", factor=4.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_context=16)
LLAMA: dict[str, Any] = {
    "d_head": 14,
    "num_heads": 6,
    "num_key_value_heads": 2,
    "norm": "rms",
    "final_norm": True,
    "positions": "rotary",
    "activation": "silu",
    "gated": True,
    "query_key_value_bias": False,
    "output_bias": False,
    "feed_forward_bias": False,
}
CHANGES: dict[str, dict[str, Any]] = {
    "gpt2": {"activation": "gelu_tanh", "final_norm": True},
    "original": {"norm_placement": "post", "positions": "sinusoidal", "embedding_scale": 35**0.5, "head_bias": True},
    "llama": LLAMA,
    "llama 3": LLAMA | {"rope_scaling": STRETCHED, "rope_theta": 500.0},
    "mistral": LLAMA | {"windows": (7, 0, 3)},
    "qwen3": LLAMA | {"query_key_norm": True, "query_key_value_bias": True, "d_head": 34},
    "wide": LLAMA | {"d_model": 96, "d_feed_forward": 160, "d_head": 64, "num_heads": 9, "num_key_value_heads": 3},
    "wide heads": {"d_head": 167, "positions": "none", "activation": "gelu", "embedding_norm": True, "attention_scale": 0.05},
    "one head of many": {"num_key_value_heads": 1, "gated": True, "head_scale": 0.3},
}


def random_model(**changes: Any) -> Transformer:
    transformer = Transformer(ModelConfig(**(BASE | changes)))
    tiny.randomize(transformer, std=1.8 / transformer.config.d_model**0.5)
    return transformer.requires_grad_(False).eval()


@pytest.fixture(params=CHANGES)
def transformer(request: pytest.FixtureRequest) -> Transformer:
    return random_model(**CHANGES[request.param])


def planned(transformer: Transformer) -> Plan:
    found = plan(transformer)
    assert found is not None
    return found


def read(transformer: Transformer, prompts: list[tuple[int, ...]]) -> tuple[Cache, ...]:
    """Caches of what was read, by torch."""
    caches = tuple(Cache() for _ in prompts)
    transformer(None, pack_ids(prompts, transformer.decoder, caches))
    return caches


@torch.inference_mode()
def assert_steps_are_equal(transformer: Transformer, ours: Plan, caches: tuple[Cache, ...], same: tuple[Cache, ...]) -> None:
    """Four tokens each by the plan, and by torch with the other caches."""
    for token in (3, 29, 11, 5):
        ids = [(token + index,) for index in range(len(caches))]
        found = ours.step(pack_ids(ids, ours.decoder, caches), [index % 3 != 1 for index in range(len(caches))])
        expected = transformer(None, pack_ids(ids, transformer.decoder, same)).x
        torch.testing.assert_close(found.hidden, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
        logits = transformer.head(expected)
        torch.testing.assert_close(found.logits, logits, rtol=0, atol=1e-5 * logits.abs().max().item())
        for index, (cache, other) in enumerate(zip(caches, same, strict=True)):
            assert cache.length == other.length
            assert (found.weights[index] is None) == (index % 3 == 1)
            for layer in range(transformer.config.decoder_layers):
                torch.testing.assert_close(cache.read("decoder", layer), other.read("decoder", layer), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [1, 5])
@torch.inference_mode()
def test_hidden_states_logits_and_caches_are_those_of_torch(transformer: Transformer, count: int) -> None:
    prompts = PROMPTS[:count]
    assert_steps_are_equal(transformer, planned(transformer), read(transformer, prompts), read(transformer, prompts))


@torch.inference_mode()
def test_many_texts_share_a_step() -> None:
    transformer, prompts = random_model(**LLAMA), PROMPTS * 3
    assert_steps_are_equal(transformer, planned(transformer), read(transformer, prompts), read(transformer, prompts))


@pytest.mark.parametrize("threads", [1, 3])
@torch.inference_mode()
def test_threads_share_the_rows_and_the_heads(threads: int) -> None:
    """Of layers large enough for that."""
    sizes = {"d_model": 295, "d_feed_forward": 331, "d_head": 34, "windows": (7, 0, 3)}
    transformer, before = random_model(**(LLAMA | sizes)), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for count in (1, 2, 3):
            prompts = PROMPTS[:count]
            assert_steps_are_equal(transformer, planned(transformer), read(transformer, prompts), read(transformer, prompts))
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def test_weights_of_few_bits_are_the_same_weights() -> None:
    """Each matrix in a form of its own."""
    transformer = random_model(**CHANGES["wide"])
    for index, parameter in enumerate(parameter for parameter in transformer.parameters() if parameter.ndim == 2):
        blocks = torch.randint(-8, 8, (parameter.numel() // 32, 32)).float()
        blocks[:, :2] = torch.tensor([-8.0, 7.0])
        scale = torch.randn(len(blocks), 1).abs().half().float() / 16
        parameter.copy_((blocks * scale).view(parameter.shape) if index % 2 else parameter.bfloat16().float())
    assert_steps_are_equal(transformer, planned(transformer), read(transformer, PROMPTS), read(transformer, PROMPTS))


@torch.inference_mode()
def test_bfloat16_weights_are_multiplied_in_float32(transformer: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    half = transformer.bfloat16()
    caches, same = read(half, PROMPTS), tuple(Cache() for _ in PROMPTS)
    for cache, other in zip(caches, same, strict=True):
        for layer in range(half.config.decoder_layers):
            other.extend("decoder", layer, *(each.float() for each in cache.read("decoder", layer)))
    whole = Transformer(half.config)
    whole.load_state_dict(half.state_dict())
    # What is looked up and summed before the first layer is of the model's own type.
    monkeypatch.setattr(whole.decoder.embedding, "forward", lambda inputs: half.decoder.embedding(inputs).float())
    assert_steps_are_equal(whole, planned(half), caches, same)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_weights_that_have_no_smaller_form_are_shared_with_the_model(dtype: torch.dtype) -> None:
    transformer = random_model(**LLAMA).to(dtype)
    before = {name: parameter.clone() for name, parameter in transformer.named_parameters()}
    ours = planned(transformer)
    places = {matrix.numbers.data_ptr() for matrix in ours.matrices}
    for name, parameter in transformer.named_parameters():
        torch.testing.assert_close(parameter, before[name], rtol=0, atol=0)
        assert (parameter.data_ptr() in places) == (parameter.ndim == 2 and "embedding" not in name)


SELECTIONS = [
    kqv.Selection(),
    kqv.Selection(weights="top", top_k=3, diagnostics=("induction", "entropy"), layers=(2, 0), heads=(1, -1)),
    kqv.Selection(weights="none", diagnostics=("output_norm", "duplicate"), layers=(1,)),
    kqv.Selection(diagnostics="none", keys=(0, 1)),
    kqv.Selection(weights="none", diagnostics="none"),
    kqv.Selection(weights="top", top_k=11, diagnostics="none", outputs=("head_outputs",)),
    kqv.Selection(diagnostics="all", top_k=2, per_query=True),
]


@pytest.mark.parametrize(("kind", "temperature"), [("mistral", 1.5), ("gpt2", 0.0)])
def test_what_is_seen_is_what_the_recorder_sees(kind: str, temperature: float) -> None:
    transformer = random_model(**CHANGES[kind])
    sampling, config = kqv.Sampling(max_new_tokens=7, temperature=temperature, seed=3), transformer.config
    written = []
    for ours in (planned(transformer), None):
        generations = [
            begin(config, TokenSequence(PROMPTS[index % 5]), sampling, selection) for index, selection in enumerate(SELECTIONS)
        ]
        while running := [generation for generation in generations if generation.finish_reason is None]:
            advance(transformer, None, running, ours)
        written.append([finish(generation, None) for generation in generations])
    for found, expected in zip(*written, strict=True):
        assert found.token_ids == expected.token_ids
        assert found.attention.keys() == expected.attention.keys()
        for group, seen in found.attention.items():
            other = expected.attention[group]
            assert (seen.layers, seen.heads, seen.diagnostics.keys()) == (other.layers, other.heads, other.diagnostics.keys())
            assert (seen.weights is None, seen.top is None) == (other.weights is None, other.top is None)
            if seen.weights is not None:
                torch.testing.assert_close(seen.weights, other.weights, rtol=0, atol=1e-5)
            if seen.top is not None:
                torch.testing.assert_close(seen.top.weights, other.top.weights, rtol=0, atol=1e-5)
            torch.testing.assert_close(seen.diagnostics, other.diagnostics, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_what_c_has_no_word_for_goes_by_torch(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan(random_model(positions="linear")) is None
    assert plan(random_model(positions="relative")) is None
    assert plan(random_model(head="transform")) is None
    assert plan(random_model().double()) is None
    both = random_model(architecture="encoder-decoder", encoder_layers=2, start_token=0)
    assert plan(both) is None
    tiny.bert(tmp_path)
    assert kqv.load(tmp_path).plan is None
    transformer = random_model()
    assert plan(transformer) is not None
    monkeypatch.setattr("kqv.decoding.library", lambda: None)
    assert plan(transformer) is None


@torch.inference_mode()
def test_caches_grow_and_are_cut() -> None:
    """Rooms double; what was cut is written over, and reads as if it had never been."""
    transformer = random_model(**LLAMA)
    ours = planned(transformer)
    (cache,), (same,) = read(transformer, PROMPTS[:1]), read(transformer, PROMPTS[:1])
    for token in range(20):
        ours.step(pack_ids([(token,)], ours.decoder, (cache,)), [False])
    assert cache.length == 26
    cache.cut(6)
    assert_steps_are_equal(transformer, ours, (cache,), (same,))

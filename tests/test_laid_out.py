"""A pass in C gives the numbers of the same pass in torch."""

from typing import Any

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kqv
from kqv.batch import pack_ids
from kqv.cache import Cache
from kqv.config import ModelConfig
from kqv.laid_out import LaidOut, laid_out
from kqv.native.library import library
from kqv.recorder import Recorder
from kqv.transformer import Transformer

pytestmark = pytest.mark.skipif(library() is None, reason="there is no C compiler here")

PROMPTS = [(5, 11, 7, 3, 29, 17), (2,), (41, 42, 43, 41, 42, 43, 41, 48, 49, 50, 51), (1, 1), (7,) * 17]
SIZES: dict[str, Any] = {"vocabulary_size": 97, "context": 41, "norm_epsilon": 0.02, "head": "linear"}


def random_model(**config: Any) -> Transformer:
    transformer = Transformer(ModelConfig(**(SIZES | config)))
    tiny.randomize(
        transformer, std=transformer.config.d_model**-0.5
    )  # with more, layers enlarge torch's own rounding past all bounds
    return transformer.requires_grad_(False).eval()


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """Every kind of layer that there is, in sizes that fill no vector and no panel, and in some that do."""
    architecture = draw(st.sampled_from(["encoder", "decoder", "encoder-decoder"]))
    layers = {kind: draw(st.integers(1, 3)) for kind in ("encoder", "decoder") if kind in architecture}
    key_heads, shared = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    norm = draw(st.sampled_from(["layer", "rms"]))
    biases = ("query_key_value_bias", "output_bias", "feed_forward_bias")
    flags = ("gated", "final_norm", "embedding_norm", "query_key_norm", *biases)
    return {
        "architecture": architecture,
        **{f"{kind}_layers": count for kind, count in layers.items()},
        "start_token": 0 if len(layers) == 2 else None,
        "d_model": draw(st.sampled_from([16, 35, 64, 130])),
        "d_head": 2 * draw(st.integers(1, 19)),
        "num_heads": key_heads * shared,
        "num_key_value_heads": key_heads,
        "d_feed_forward": draw(st.sampled_from([5, 53, 128, 193])),
        "norm": norm,
        "norm_placement": draw(st.sampled_from(["pre", "post"])),
        "activation": draw(st.sampled_from(["relu", "gelu", "gelu_tanh", "silu"])),
        "positions": draw(st.sampled_from(["none", "learned", "rotary", "relative", "linear"])),
        "windows": tuple(draw(st.sampled_from([0, 3, 7])) for _ in range(layers.get("decoder", 0))),
        **{flag: draw(st.booleans()) for flag in flags},
    }


def sides(transformer: Transformer, prompts: list[tuple[int, ...]]) -> list[Any]:
    """What each side reads."""
    return [None if side is None else pack_ids(prompts, side) for side in (transformer.encoder, transformer.decoder)]


@given(config=configs(), prompts=st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=9), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
@torch.inference_mode()
def test_hidden_states_are_those_of_torch(config: dict[str, Any], prompts: list[tuple[int, ...]], seed: int) -> None:
    torch.manual_seed(seed)
    transformer = random_model(**config)
    ours, given_sides = laid_out(transformer), sides(transformer, prompts)
    assert isinstance(ours, LaidOut)
    expected = transformer(*given_sides).x
    torch.testing.assert_close(ours(*given_sides).x, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [1, 3, 40])
@torch.inference_mode()
def test_threads_share_the_panels_of_few_tokens_and_the_tokens_of_many(threads: int, count: int) -> None:
    sizes = {"d_model": 295, "d_head": 34, "num_heads": 6, "num_key_value_heads": 2, "d_feed_forward": 331}
    kinds = {
        "positions": "rotary",
        "norm": "rms",
        "norm_placement": "pre",
        "gated": True,
        "query_key_norm": True,
        "final_norm": True,
    }
    transformer, before = random_model(architecture="decoder", decoder_layers=2, **sizes, **kinds), torch.get_num_threads()
    given_sides = sides(transformer, (PROMPTS * 8)[:count])
    expected = transformer(*given_sides).x
    torch.set_num_threads(threads)
    try:
        found = laid_out(transformer)(*given_sides).x
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@torch.inference_mode()
def test_prompts_are_read_into_caches_piece_by_piece() -> None:
    transformer = random_model(architecture="decoder", decoder_layers=2, d_model=35, num_heads=5, d_feed_forward=53, windows=(7, 0))
    ours, both = laid_out(transformer), []
    for network in (ours, transformer):
        caches = tuple(Cache() for _ in PROMPTS)
        for _ in range(2):
            row = network(None, pack_ids(PROMPTS, transformer.decoder, caches))
        both.append([row.x, *(each for cache in caches for layer in (0, 1) for each in cache.read("decoder", layer))])
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-5)


SUMS = [
    kqv.Selection(weights="none"),
    kqv.Selection(weights="none", diagnostics=("output_norm", "normalized_entropy", "top_k_mass"), top_k=3, heads=(-1, 0)),
    kqv.Selection(weights="none", diagnostics="none"),
    kqv.Selection(weights="none", diagnostics=("duplicate",), layers=(0,), outputs=("hidden", "pooled")),
]
MAPS = [
    kqv.Selection(),
    kqv.Selection(diagnostics="none", layers=(-1, 0, -1), heads=(0, -1, 0)),
    kqv.Selection(diagnostics=("entropy",), layers=(1,), queries=(0, 1), keys=(0, 1)),
]
MORE = [
    kqv.Selection(weights="top", top_k=2, diagnostics="none"),
    kqv.Selection(weights="none", per_query=True),
    kqv.Selection(weights="none", diagnostics=("similarity",)),
    kqv.Selection(weights="none", outputs=("head_outputs", "k")),
    kqv.Selection(weights="none", top_k=9),
    kqv.Selection(weights="none", attention=kqv.Performer(features=8), diagnostics=("first",)),
]


def analyses(
    network: Any, transformer: Transformer, selections: list[kqv.Selection], prompts: list[tuple[int, ...]] = PROMPTS
) -> list[kqv.Analysis]:
    """Of a batch of all prompts, twice, each looked at by one of the selections."""
    model = kqv.Model("random", transformer, None, "random")
    model.__dict__["network"] = network
    jobs = [kqv.Job(model.read(ids), selections[place % len(selections)]) for place, ids in enumerate(prompts * 2)]
    return model.analyze_jobs(jobs)


@given(config=configs(), selections=st.lists(st.sampled_from(SUMS + MAPS + MORE[:1]), min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_figures_are_those_of_the_recorder(config: dict[str, Any], selections: list[kqv.Selection]) -> None:
    torch.manual_seed(0)
    transformer = random_model(**config | {"architecture": "decoder", "encoder_layers": 0, "decoder_layers": 2, "windows": (0, 3)})
    found, expected = (analyses(network, transformer, selections) for network in (laid_out(transformer), transformer))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.attention.keys() == theirs.attention.keys()
        for group, figures in ours.attention.items():
            torch.testing.assert_close(
                figures.diagnostics, theirs.attention[group].diagnostics, rtol=1e-4, atol=2e-5, equal_nan=True
            )
            torch.testing.assert_close(figures.weights, theirs.attention[group].weights, rtol=1e-4, atol=2e-5)
        assert (ours.checks is None) == (theirs.checks is None)
        if ours.checks is not None:
            assert ours.checks.row_sum_error < 1e-6
            assert ours.checks.forbidden_mass == 0


LONG = [tuple(7 * place % 97 for place in range(length)) for length in (95, 96, 97, 373)]
"""As long as a tile of keys, one more and one less, and several tiles, of which queries see parts."""


@pytest.mark.parametrize("architecture", ["encoder", "decoder"])
@pytest.mark.parametrize("positions", ["none", "relative", "linear"])
def test_maps_of_several_tiles_are_those_of_the_recorder(architecture: str, positions: str) -> None:
    torch.manual_seed(0)
    layers = {"encoder_layers": 2} if architecture == "encoder" else {"decoder_layers": 2, "windows": (0, 101)}
    shape = {"d_model": 36, "num_heads": 6, "num_key_value_heads": 3, "d_feed_forward": 53, "context": 401}
    transformer = random_model(architecture=architecture, positions=positions, **layers, **shape)
    selections = [kqv.Selection(), kqv.Selection(queries=(7, 90), keys=(50, 91), heads=(4, 1)), kqv.Selection(weights="none")]
    found, expected = (analyses(network, transformer, selections, LONG) for network in (laid_out(transformer), transformer))
    for ours, theirs in zip(found, expected, strict=True):
        weights, close_to = ours.attention[architecture].weights, theirs.attention[architecture].weights
        torch.testing.assert_close(weights, close_to, rtol=1e-4, atol=1e-5)
        if weights is not None and weights.shape[-1] == len(ours.token_ids):
            assert (weights.sum(-1) - 1).abs().max() < 4e-6  # the rounding of 373 weights, and of their sum


def test_a_pass_whose_sums_and_maps_alone_are_wanted_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    transformer = random_model(architecture="encoder", encoder_layers=2, d_model=36, num_heads=2, d_feed_forward=53)
    ours, calls = laid_out(transformer), []
    attend = Recorder.__call__
    monkeypatch.setattr(Recorder, "__call__", lambda recorder, call: calls.append(call.layer) or attend(recorder, call))
    for selections in (SUMS + MAPS, *([each] for each in SUMS + MAPS)):
        analyses(ours, transformer, selections)
    assert calls == []
    for selection in MORE:
        analyses(ours, transformer, [SUMS[0], selection])
        assert calls == [0, 1]
        calls.clear()


SHAPE: dict[str, Any] = {"d_model": 36, "num_heads": 2, "d_feed_forward": 53}


def test_what_c_has_no_word_for_goes_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = random_model(architecture="encoder", encoder_layers=1, **SHAPE)
    assert isinstance(laid_out(encoder), LaidOut)
    longformer = random_model(architecture="encoder", encoder_layers=1, encoder_windows=(4,), **SHAPE)
    for other in (longformer, encoder.double(), random_model(architecture="encoder", encoder_layers=1, **SHAPE).bfloat16()):
        assert laid_out(other) is other
    monkeypatch.setattr("kqv.laid_out.library", lambda: None)
    plain = random_model(architecture="encoder", encoder_layers=1, **SHAPE)
    assert laid_out(plain) is plain

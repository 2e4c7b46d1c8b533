"""Generation: cached steps equal the full pass, greedy text equals transformers', chance is what its parameters say."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers

import kqv
import kqv.decoding
import kqv.generate
import kqv.recorder
from kqv.sampling import choose

PROMPTS = [[5, 11, 7, 3, 29, 17], [2], [41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51]]
# Either way of reading rounds in its own order. T5 doesn't scale its scores, which are large in a random one: measured, each way's
# weights are then up to 1.2e-5 from those in float64.
WEIGHTS, LOGITS = {"rtol": 0, "atol": 2.4e-5}, {"rtol": 0, "atol": 1e-4}


def gpt2() -> tuple[Any, Any]:
    config = transformers.GPT2Config(vocab_size=97, n_embd=35, n_head=5, n_layer=3, n_positions=41, eos_token_id=96)
    return transformers.GPT2LMHeadModel, config


def mistral() -> tuple[Any, Any]:
    """Rotations, grouped heads, and a window shorter than the text."""
    config = transformers.MistralConfig(
        vocab_size=97,
        hidden_size=30,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=10,
        num_hidden_layers=3,
        intermediate_size=53,
        max_position_embeddings=41,
        sliding_window=7,
        eos_token_id=96,
    )
    return transformers.MistralForCausalLM, config


def t5() -> tuple[Any, Any]:
    config = transformers.T5Config(
        vocab_size=97,
        d_model=35,
        d_kv=7,
        num_heads=5,
        num_layers=3,
        num_decoder_layers=3,
        d_ff=53,
        eos_token_id=1,
        pad_token_id=0,
        decoder_start_token_id=0,
    )
    return transformers.T5ForConditionalGeneration, config


KINDS = {"gpt2": gpt2, "mistral": mistral, "t5": t5}


@pytest.fixture(scope="module", params=[*KINDS, "gpt2 without C", "mistral without C"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[kqv.Model, Any]:
    """Our model and transformers' own, of one checkpoint."""
    torch.manual_seed(0)
    kind, _, without = request.param.partition(" without ")
    directory = tmp_path_factory.mktemp("models") / kind
    reference = tiny.save(directory, *KINDS[kind]())
    model = kqv.load(directory)
    if without:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("kqv.decoding.library", lambda: None)
            assert model.plan is None
    return model, reference


def written_by_transformers(reference: Any, prompt: list[int], count: int) -> list[int]:
    """Greedy ids, the prompt and the start token left out."""
    with torch.inference_mode():
        ids = reference.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=count, min_new_tokens=0)[0].tolist()
    return ids[1:] if reference.config.is_encoder_decoder else ids[len(prompt) :]


def test_greedy_text_equals_transformers_alone_and_together(pair: tuple[kqv.Model, Any]) -> None:
    model, reference = pair
    together = model.generate(PROMPTS, max_new_tokens=20)
    for prompt, found in zip(PROMPTS, together, strict=True):
        expected = written_by_transformers(reference, prompt, 20)
        [alone] = model.generate([prompt], max_new_tokens=20)
        assert list(found.token_ids) == expected
        assert list(alone.token_ids) == expected


def test_each_step_equals_the_full_pass(pair: tuple[kqv.Model, Any]) -> None:
    """The maps of all steps put together are the analysis of what was read, diagnostics included."""
    model, _ = pair
    everything = kqv.Selection(outputs=())
    for prompt, found in zip(PROMPTS, model.generate(PROMPTS, selection=everything, max_new_tokens=20), strict=True):
        assert 1 <= len(found.token_ids) <= 20
        if model.config.architecture == "decoder":
            given = kqv.Input(tokens=[*prompt, *found.token_ids[:-1]])
        else:
            given = kqv.Input(tokens=prompt, target=[model.config.start_token, *found.token_ids[:-1]])
        [whole] = model.analyze([given], outputs=("logits",))
        assert found.attention.keys() == whole.attention.keys()
        for group, seen in found.attention.items():
            expected = whole.attention[group]
            torch.testing.assert_close(seen.weights, expected.weights, **WEIGHTS)
            torch.testing.assert_close(seen.diagnostics, expected.diagnostics, rtol=0, atol=1e-4, equal_nan=True)
        # Greedy: every token is the likeliest after those before it.
        chosen = whole.logits[-len(found.token_ids) :].argmax(-1)
        assert chosen.tolist() == list(found.token_ids)


def test_top_weights_of_the_steps_are_those_of_the_maps(pair: tuple[kqv.Model, Any]) -> None:
    model, _ = pair
    full, top = (
        model.generate(PROMPTS[:1], selection=kqv.Selection(weights=kind, top_k=3, layers=(1,), heads=(0, 2)), max_new_tokens=9)[0]
        for kind in ("full", "top")
    )
    for group, seen in top.attention.items():
        weights = full.attention[group].weights
        torch.testing.assert_close(seen.top.weights, weights.sort(-1, descending=True).values[..., :3], **WEIGHTS)
        torch.testing.assert_close(weights.gather(-1, seen.top.keys), seen.top.weights, **WEIGHTS)


@pytest.mark.parametrize("pair", ["t5"], indirect=True)
def test_without_a_target_an_encoder_decoder_is_analyzed_on_its_own_greedy_text(pair: tuple[kqv.Model, Any]) -> None:
    model, _ = pair
    [found] = model.analyze([PROMPTS[0]])
    [written] = model.generate([PROMPTS[0]], max_new_tokens=256)
    ids = written.token_ids[:-1] if written.finish_reason == "end" else written.token_ids
    assert found.target_token_ids == (model.config.start_token, *ids)


def test_generation_keeps_to_its_limit_and_to_the_end_token(pair: tuple[kqv.Model, Any]) -> None:
    model, _ = pair
    [found] = model.generate([PROMPTS[0]], max_new_tokens=5)
    assert found.finish_reason == ("end" if found.token_ids[-1] in model.config.end_tokens else "length")
    assert len(found.token_ids) <= 5
    assert all(index not in model.config.end_tokens for index in found.token_ids[:-1])


def test_the_same_seed_writes_the_same_text_whoever_shares_the_steps(pair: tuple[kqv.Model, Any]) -> None:
    model, _ = pair
    chance = {"temperature": 1.5, "seed": 11, "max_new_tokens": 12}
    [alone] = model.generate(PROMPTS[:1], **chance)
    together = model.generate(PROMPTS, **chance)
    assert together[0].token_ids == alone.token_ids
    [other] = model.generate(PROMPTS[:1], **(chance | {"seed": 12}))
    assert other.token_ids != alone.token_ids


def test_a_single_choice_leaves_nothing_to_chance(pair: tuple[kqv.Model, Any]) -> None:
    model, _ = pair
    [greedy] = model.generate(PROMPTS[:1], max_new_tokens=12)
    for restriction in ({"top_k": 1}, {"top_p": 1e-6}):
        [found] = model.generate(PROMPTS[:1], temperature=2.0, max_new_tokens=12, **restriction)
        assert found.token_ids == greedy.token_ids


def frequencies(logits: torch.Tensor, sampling: kqv.Sampling, draws: int = 4000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(len(logits))
    for _ in range(draws):
        counts[choose(logits, sampling, generator)] += 1
    return counts / draws


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.5, 0.3, 0.15, 0.05]),
        ({"temperature": 0.5}, [0.6849, 0.2466, 0.0616, 0.0068]),  # squares, normalised
        ({"top_k": 2}, [0.625, 0.375, 0, 0]),
        ({"top_p": 0.81}, [0.5263, 0.3158, 0.1579, 0]),  # the third is needed to reach 0.81
        ({"top_p": 0.8}, [0.625, 0.375, 0, 0]),
    ],
)
def test_tokens_are_drawn_as_often_as_their_probabilities_say(options: dict[str, Any], expected: list[float]) -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    found = frequencies(logits, kqv.Sampling(**({"temperature": 1.0} | options)))
    # Four standard deviations of a share of 4,000 draws: 4·√(½·½/4000) = 0.032.
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=0.032)


def fail_in_the_second_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """In C, once all is written."""
    attend, decode = kqv.recorder.Recorder.__call__, kqv.decoding.decode

    def failing(self: Any, call: Any) -> Any:
        if call.layer == 1:
            raise RuntimeError("no memory")
        return attend(self, call)

    def failing_late(*args: Any) -> None:
        decode(*args)
        raise RuntimeError("no memory")

    monkeypatch.setattr("kqv.recorder.Recorder.__call__", failing)
    monkeypatch.setattr("kqv.decoding.decode", failing_late)


def fail_at_the_last_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    take = kqv.generate.take

    def failing(generation: kqv.Generation, *rest: Any) -> None:
        if generation.source.ids == tuple(PROMPTS[2]):
            raise RuntimeError("no such token")
        take(generation, *rest)

    monkeypatch.setattr("kqv.generate.take", failing)


@pytest.mark.parametrize("fail", [fail_in_the_second_layer, fail_at_the_last_choice])
@pytest.mark.parametrize("steps_before", [0, 1, 3])
def test_step_that_fails_changes_nothing(
    pair: tuple[kqv.Model, Any], monkeypatch: pytest.MonkeyPatch, fail: Any, steps_before: int
) -> None:
    model, _ = pair
    sampling, selection = kqv.Sampling(max_new_tokens=9, temperature=1.0, seed=7), kqv.Selection(outputs=())
    wanted = [(model.read(prompt), sampling, selection) for prompt in PROMPTS]
    generations = [model.begin(*each) for each in wanted]
    for _ in range(steps_before):
        model.advance(generations)
    before = [(each.read, each.text, each.cache.length, len(each.steps)) for each in generations]
    with monkeypatch.context() as patched:
        fail(patched)
        with pytest.raises(RuntimeError, match="no "):
            model.advance(generations)
    assert [(each.read, each.text, each.cache.length, len(each.steps)) for each in generations] == before
    while running := [each for each in generations if each.finish_reason is None]:
        model.advance(running)
    for found, expected in zip(map(model.finish, generations), model.generate_each(wanted), strict=True):
        assert found.token_ids == expected.token_ids
        for group, seen in found.attention.items():
            torch.testing.assert_close(seen.weights, expected.attention[group].weights, rtol=0, atol=0)


def test_errors_about_a_source_say_which(pair: tuple[kqv.Model, Any]) -> None:
    model, _ = pair
    embeddings = kqv.Input(embeddings=torch.zeros(3, model.config.d_model))
    if model.config.architecture == "decoder":
        with pytest.raises(kqv.UnsupportedError, match="not from embeddings") as caught:
            model.generate([[5], embeddings], max_new_tokens=2)
        assert caught.value.location == (1,)


REFUSED = [
    ({"temperature": -1.0}, "temperature is 0 or more"),
    ({"temperature": float("nan")}, "temperature is 0 or more"),
    ({"temperature": float("inf")}, "temperature is 0 or more, and finite"),
    ({"top_p": 0.0}, "top_p is more than 0"),
    ({"top_p": 1.1}, "top_p is more than 0 and at most 1"),
    ({"top_k": -1}, "top_k is 0 or more"),
    ({"max_new_tokens": 0}, "max_new_tokens is 1 or more"),
    ({"stop": ("",)}, "none of them empty"),
    ({"stop": tuple("abcdefghijklmnopq")}, "at most 16 texts"),
    ({"max_new_tokens": 10_000}, "exceed the model's context"),
    ({"selection": kqv.Selection(weights="pooled")}, "grows by rows"),
    ({"selection": kqv.Selection(diagnostics=("similarity",))}, "similarity need whole maps"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_means_nothing_is_refused(pair: tuple[kqv.Model, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(kqv.InputError) as caught:
        pair[0].generate([[5, 7]], **options)
    assert message in str(caught.value)


def test_an_encoder_writes_nothing(tmp_path: Path) -> None:
    tiny.bert(tmp_path)
    with pytest.raises(kqv.UnsupportedError, match="no decoder with a language-model head"):
        kqv.load(tmp_path).generate([[2, 5, 3]])
    with pytest.raises(kqv.UnsupportedError, match="target is for encoder–decoders"):
        kqv.load(tmp_path).analyze([kqv.Input(tokens=[2, 5, 3], target=[1])])

"""The models that come with kqv do what docs/minis.md says, on examples that none of them was trained on; transformers agrees."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import parity
import pytest
import tokenizers
import torch
import transformers

import kqv
from kqv.store import BUILT_IN, KNOWN, size_on_disk
from training import dates, figures, mini_bert, mini_gpt, mini_t5
from training.text import Prose, Stream, prose

ROOT = Path(__file__).parents[1]
KINDS = {
    "mini-bert": transformers.AutoModelForMaskedLM,
    "mini-gpt": transformers.AutoModelForCausalLM,
    "mini-t5": transformers.AutoModelForSeq2SeqLM,
}
SENTENCES = ["The cat sat on the mat.", "the 21st of March, 1985", "Füße, naïve 東京 😀 don't"]


@pytest.fixture(scope="module")
def minis() -> dict[str, kqv.Model]:
    return {name: kqv.load(name) for name in BUILT_IN}


@pytest.fixture(scope="module")
def text() -> Prose:
    return prose()


@pytest.fixture(scope="module")
def held_out(text: Prose) -> Callable[[str, str], Stream]:
    """Text that no model was trained on, as the tokens of one."""

    def encode(name: str, end: str = "") -> Stream:
        return Stream(tokenizers.Tokenizer.from_file(str(BUILT_IN[name].folder / "tokenizer.json")), text.held_out, end=end)

    return encode


def read_by_transformers(name: str) -> transformers.PreTrainedModel:
    """As transformers reads it, with everything in its place."""
    model, loading = KINDS[name].from_pretrained(BUILT_IN[name].folder, attn_implementation="eager", output_loading_info=True)
    assert not any(loading.values())
    return model.eval()


def test_they_are_small() -> None:
    assert sum(size_on_disk(model.folder) for model in BUILT_IN.values()) <= 4_000_000


def test_no_pulled_model_is_called_like_one_of_them() -> None:
    assert not BUILT_IN.keys() & KNOWN.keys()


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_models_page_says_what_they_are(name: str) -> None:
    model = BUILT_IN[name]
    assert f"| `{name}` | {model.summary} | {model.licence} |" in (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_summary_is_true(name: str, minis: dict[str, kqv.Model]) -> None:
    config = minis[name].config
    layers = " + ".join(str(count) for count in (config.encoder_layers, config.decoder_layers) if count)
    sizes = f" {layers} layers × {config.num_heads} heads, width {config.d_model}, {config.context} tokens"
    assert BUILT_IN[name].summary.endswith(sizes)


@pytest.mark.parametrize("name", BUILT_IN)
def test_ids_are_those_of_transformers_tokenizer(name: str, minis: dict[str, kqv.Model]) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(BUILT_IN[name].folder)
    for sentence in SENTENCES:
        assert list(minis[name].read(sentence).ids) == theirs(sentence)["input_ids"]


@pytest.mark.parametrize("name", ["mini-bert", "mini-gpt"])
def test_weights_states_and_logits_equal_transformers(
    name: str, minis: dict[str, kqv.Model], held_out: Callable[[str], Stream]
) -> None:
    model, reference = minis[name], read_by_transformers(name)
    stream, generator = held_out(name), random.Random(2)
    rows = [stream.window(length, generator) for length in (64, 1, 256, 23)]
    for row, found in zip(rows, parity.see(model, *rows), strict=True):
        parity.assert_equal(found, parity.expect(reference, model, row))


def test_mini_t5_equals_transformers(minis: dict[str, kqv.Model]) -> None:
    model, reference = minis["mini-t5"], read_by_transformers("mini-t5")
    examples = dates.draw(random.Random(2), 5, held_out=True)
    sources = [list(model.read(example.source).ids) for example in examples]
    targets = [[model.config.start_token, *model.read(example.target).ids] for example in examples]
    for source, target, found in zip(sources, targets, parity.see_both(model, sources, targets), strict=True):
        parity.assert_equal(found, parity.expect_both(reference, source, target))


def test_mini_bert_looks_at_neighbours_and_guesses_far_better_than_by_frequency(
    minis: dict[str, kqv.Model], held_out: Callable[[str], Stream]
) -> None:
    text, generator = held_out("mini-bert"), random.Random(3)
    rows = [[mini_bert.CLS_ID, *text.window(62, generator), mini_bert.SEP_ID] for _ in range(60)]
    guessed, by_frequency = mini_bert.guess(minis["mini-bert"], rows), mini_bert.frequency(text, rows)
    assert guessed.right > 5 * by_frequency.right
    assert guessed.loss < by_frequency.loss - 2.5
    found = figures.diagnostics(minis["mini-bert"], "encoder", rows, ("previous", "next"))
    assert found["previous"].max() > 0.9 and found["next"].max() > 0.9  # one head each way


@pytest.mark.parametrize(("kind", "right"), [("24 random tokens", 0.97), ("40 tokens of text", 0.65)])
def test_mini_gpt_has_an_induction_head_and_repeats_what_it_has_read(
    kind: str, right: float, minis: dict[str, kqv.Model], held_out: Callable[..., Stream]
) -> None:
    rows = mini_gpt.repeats(held_out("mini-gpt", "\n"), random.Random(3), 12)[kind]
    found = figures.diagnostics(minis["mini-gpt"], "decoder", rows, ("induction", "previous"))
    assert found["induction"].max() > 0.5
    assert found["previous"][0].max() > 0.5  # in the layer below: an induction head needs one
    assert mini_gpt.right(minis["mini-gpt"], rows) > right


def test_mini_t5_writes_dates_and_looks_at_the_part_that_it_writes(minis: dict[str, kqv.Model]) -> None:
    examples = dates.draw(random.Random(3), 40, held_out=True)
    written = minis["mini-t5"].generate([example.source for example in examples], max_new_tokens=12)
    assert [each.text for each in written] == [example.target for example in examples]
    assert (mini_t5.aligned(minis["mini-t5"], examples) > 0.6).sum() >= 5  # of 8 heads


def test_mini_t5_is_its_own_target(minis: dict[str, kqv.Model]) -> None:
    [found] = minis["mini-t5"].analyze(["the 21st of March, 1985"], diagnostics="none", outputs=())
    assert found.target_tokens is not None
    assert "".join(found.target_tokens[1:]) == "1985-03-21"


def test_no_paragraph_is_both_trained_on_and_held_out(text: Prose) -> None:
    assert len(text.training) > 10 * len(text.held_out) > 1000
    assert not {*text.training} & {*text.held_out}


@pytest.mark.parametrize("form", dates.FORMATS)
def test_an_example_knows_where_the_parts_of_its_date_are(form: str) -> None:
    example = dates.write(date(1907, 3, 22), form)
    parts = {part: example.source[slice(*span)] for part, span in example.spans.items()}
    assert example.target == "1907-03-22"
    assert parts.keys() == {"year", "month", "day"}
    assert parts["year"] == "1907"
    assert parts["month"] in ("March", "Mar", "03", "3")
    assert parts["day"] in ("22", "22nd")
    assert [example.span_of(place) for place in (3, 4, 5, 9)] == [
        example.spans["year"],
        None,
        example.spans["month"],
        example.spans["day"],
    ]


def test_held_out_dates_are_not_trained_on() -> None:
    held_out, trained_on = (
        {example.target for example in dates.draw(random.Random(0), 500, held_out=out)} for out in (True, False)
    )
    assert not held_out & trained_on


@pytest.mark.parametrize("mini", [mini_bert, mini_gpt, mini_t5])
def test_training_starts_over_alike(mini: Any, tmp_path: Path) -> None:
    """Two steps, twice: the same seed makes the same model, and kqv reads it."""
    for folder in (tmp_path / "once", tmp_path / "again"):
        torch.manual_seed(0)
        mini.make(folder, replace(mini.PLAN, steps=2))
    assert kqv.load(tmp_path / "once").revision == kqv.load(tmp_path / "again").revision

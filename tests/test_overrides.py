"""The same weights under another attention: in which groups it runs, what it gives, and what is refused before anything runs."""

from typing import Any

import parity
import pytest
import tiny
import torch
import transformers
from torch import Tensor
from torch.testing import assert_close

import kqv
from kqv import Linformer, Longformer, Performer
from kqv.attention.call import AttentionCall
from kqv.attention.dense import dense
from kqv.attention.packed import join
from kqv.batch import pack_ids

IDS = [5, 9, 23, 41, 8, 77, 5, 9, 3, 60, 61]
VARIANTS = {
    "longformer": Longformer(window=4, dilation=2, global_tokens=(0,)),
    "linformer": Linformer(rank=5, seed=1),
    "performer": Performer(features=16, seed=1),
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> kqv.Model:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("bert")
    tiny.bert(directory)
    return kqv.load(directory)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> kqv.Model:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("gpt2")
    tiny.save(directory, transformers.GPT2LMHeadModel, transformers.GPT2Config(**tiny.GPT2))
    return kqv.load(directory)


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> kqv.Model:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("t5")
    tiny.save(directory, transformers.T5ForConditionalGeneration, transformers.T5Config(**tiny.T5))
    return kqv.load(directory)


@torch.inference_mode()
def run_under(model: kqv.Model, variant: Any, ids: list[int]) -> tuple[Tensor, list[Any], list[Any]]:
    """The last hidden states, and what each layer gave; and what dense attention gives on the same queries, keys and values."""
    given, reference = [], []

    def attend(call: AttentionCall) -> Tensor:
        [sequence] = call.sequences()
        options = {"mask": sequence.mask, "bias": sequence.bias, "scale": sequence.scale}
        given.append(variant.at(call.layer)(sequence.q, sequence.k, sequence.v, **options, weights=True))
        reference.append(sequence.by(dense))
        return join(call, given[-1:])

    side = model.transformer.encoder or model.transformer.decoder
    row = model.network(
        *(pack_ids([ids], side) if part else None for part in (model.transformer.encoder, model.transformer.decoder)), attend
    )
    return row.x, given, reference


@pytest.mark.parametrize("kind", VARIANTS)
def test_every_layer_runs_under_it(bert: kqv.Model, kind: str) -> None:
    hidden, layers, reference = run_under(bert, VARIANTS[kind], IDS)
    selection = {"attention": VARIANTS[kind], "compare": True, "outputs": ("hidden", "head_outputs")}
    [found] = bert.analyze([IDS], **selection)
    group = found.attention["encoder"]
    assert group.attention == kind
    assert_close(found.hidden, hidden, rtol=0, atol=1e-5)
    assert_close(group.weights, torch.cat([layer.weights for layer in layers]), rtol=0, atol=1e-6)
    assert_close(group.head_outputs, torch.cat([layer.output for layer in layers]), rtol=0, atol=1e-5)
    apart = [kqv.compare(layer, exact) for layer, exact in zip(layers, reference, strict=True)]
    assert_close(group.comparison.output_error, torch.cat([each.output_error for each in apart]), rtol=1e-4, atol=1e-6)
    assert_close(group.comparison.weight_error, torch.cat([each.weight_error for each in apart]), rtol=1e-4, atol=1e-6)
    [plain] = bert.analyze([IDS])
    assert not torch.allclose(plain.hidden, hidden, atol=1e-2)
    assert plain.attention["encoder"].attention is None
    assert plain.attention["encoder"].comparison is None


@pytest.mark.parametrize("kind", ["longformer", "performer"])
def test_a_decoder_looks_back_under_it(gpt2: kqv.Model, kind: str) -> None:
    hidden, layers, _ = run_under(gpt2, VARIANTS[kind], IDS)
    [found] = gpt2.analyze([IDS], attention=VARIANTS[kind])
    assert_close(found.hidden, hidden, rtol=0, atol=1e-5)
    assert_close(found.attention["decoder"].weights, torch.cat([layer.weights for layer in layers]), rtol=0, atol=1e-6)
    assert (found.attention["decoder"].weights.triu(1) == 0).all()
    [earlier] = gpt2.analyze([IDS[:6]], attention=VARIANTS[kind])
    assert_close(found.hidden[:6], earlier.hidden, rtol=0, atol=1e-4)


def test_layers_and_heads_are_reported_as_ever(bert: kqv.Model) -> None:
    for variant in VARIANTS.values():
        [whole] = bert.analyze([IDS], attention=variant, compare=True)
        [part] = bert.analyze(
            [IDS], attention=variant, compare=True, layers=(2, 0), heads=(-1, 1), weights="none", diagnostics="none"
        )
        expected = whole.attention["encoder"].comparison.output_error[[2, 0]][:, [4, 1]]
        assert_close(part.attention["encoder"].comparison.output_error, expected)
        assert part.attention["encoder"].weights is None


@pytest.mark.parametrize("kind", VARIANTS)
def test_a_sequence_does_not_depend_on_its_neighbours(bert: kqv.Model, kind: str) -> None:
    sequences = [*parity.draw((19, 40)), IDS]
    selections = [kqv.Selection(), kqv.Selection(attention=Performer()), kqv.Selection(attention=VARIANTS[kind], compare=True)]
    together = bert.analyze_jobs([kqv.Job(bert.read(ids), chosen) for ids, chosen in zip(sequences, selections, strict=True)])
    [alone] = bert.analyze_jobs([kqv.Job(bert.read(IDS), selections[-1])])
    assert_close(together[-1].hidden, alone.hidden, rtol=0, atol=1e-5)
    assert_close(together[-1].attention["encoder"].weights, alone.attention["encoder"].weights, rtol=0, atol=1e-5)
    [plain] = bert.analyze([sequences[0]])
    assert_close(together[0].hidden, plain.hidden, rtol=0, atol=1e-5)


def test_weights_that_are_no_shares_have_no_entropy(bert: kqv.Model) -> None:
    [found] = bert.analyze([IDS], attention=VARIANTS["linformer"], diagnostics=("entropy", "similarity", "first"))
    figures = found.attention["encoder"].diagnostics
    assert figures["entropy"].isnan().all()
    assert figures["similarity"].isnan().all()
    assert figures["first"].isfinite().all()
    assert found.checks.row_sum_error > 0.01


def groups_under(model: kqv.Model, **selection: Any) -> dict[str, str | None]:
    [found] = model.analyze([kqv.Input(tokens=IDS, target=IDS[:5])], **selection)
    return {group: part.attention for group, part in found.attention.items()}


def test_each_attention_serves_the_groups_that_it_can(t5: kqv.Model) -> None:
    window = Longformer(window=4)
    assert groups_under(t5, attention=window) == {"encoder": "longformer", "decoder": "longformer", "cross": None}
    assert groups_under(t5, attention=Longformer(window=12), groups=("encoder",))["encoder"] == "longformer"
    assert groups_under(t5, attention=window, groups=("decoder",)) == {"encoder": None, "decoder": "longformer", "cross": None}
    for variant in (Linformer(rank=3), Performer()):  # T5 adds to the scores of its self-attention
        assert groups_under(t5, attention=variant) == {"encoder": None, "decoder": None, "cross": variant.kind}


REFUSED: dict[str, tuple[str, dict[str, Any], str, tuple[str | int, ...]]] = {
    "window across": (
        "t5",
        {"attention": Longformer(window=2), "groups": ("encoder", "cross")},
        "take linformer or performer; it can serve encoder and decoder of this model",
        ("attention", "groups", 1),
    ),
    "bias under performer": (
        "t5",
        {"attention": Performer(), "groups": ("encoder",)},
        "performer can't serve encoder attention: performer never sees pairs of tokens, so nothing can be added",
        ("attention", "groups", 0),
    ),
    "causal linformer": (
        "gpt2",
        {"attention": Linformer(rank=3)},
        "linformer can serve no attention of this model: linformer mixes all keys",
        ("attention", "kind"),
    ),
    "another model's group": (
        "bert",
        {"attention": Performer(), "groups": ("cross",)},
        "this model has no cross attention; it has encoder",
        ("attention", "groups", 0),
    ),
    "window beyond the target alone": (
        "t5",
        {"attention": Longformer(window=12), "groups": ("decoder",)},
        "beyond the sequence of 5; take at most 10",
        ("attention", "window"),
    ),
    "no groups": ("bert", {"attention": Performer(), "groups": ()}, "groups is empty", ("attention", "groups")),
    "no window": ("bert", {"attention": Longformer(global_tokens=(0,))}, "only a Longformer checkpoint", ("attention", "window")),
    "window beyond n": ("bert", {"attention": Longformer(window=24)}, "take at most 22", ("attention", "window")),
    "dilations": (
        "bert",
        {"attention": Longformer(window=2, dilation=(1, 2))},
        "2 dilations are given for 5",
        ("attention", "dilation"),
    ),
    "global token": ("bert", {"attention": Longformer(window=2, global_tokens=(11,))}, "of 11", ("attention", "global_tokens", 0)),
    "projections": ("bert", {"attention": Linformer(e=torch.ones(3, 12))}, "for 12 keys, and there are 11", ("attention", "e")),
    "width of features": ("bert", {"attention": Performer(projection=torch.ones(3, 5))}, "which is 7", ("attention", "projection")),
    "compare with nothing": ("bert", {"compare": True}, "leave compare out", ("compare",)),
    "scores of none": (
        "bert",
        {"attention": Performer(), "outputs": ("hidden", "scaled_scores")},
        "performer never makes scaled_scores",
        ("outputs", 1),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_before_it_runs(request: pytest.FixtureRequest, case: str) -> None:
    name, selection, message, location = REFUSED[case]
    model: kqv.Model = request.getfixturevalue(name)
    sequence = model.read(kqv.Input(tokens=IDS, target=IDS[:5] if name == "t5" else None))
    with pytest.raises(kqv.InputError) as caught:
        model.scopes(sequence, kqv.Selection(**selection))
    assert message in str(caught.value)
    assert caught.value.location == location


def test_a_text_is_written_by_the_models_own_attention(gpt2: kqv.Model) -> None:
    with pytest.raises(kqv.UnsupportedError, match="analyze the finished text under another"):
        gpt2.generate([IDS], selection=kqv.Selection(attention=Performer()))


def test_the_answer_is_as_large_as_predicted(bert: kqv.Model) -> None:
    for compare in (False, True):
        selection = kqv.Selection(attention=Performer(), compare=compare, weights="none", diagnostics=(), outputs=("q",))
        assert bert.answer_numbers(bert.read(IDS), selection) == 3 * 5 * (11 * 7 + 2 * compare)


def test_a_window_over_everything_leaves_minilm_as_it_is(minilm: kqv.Model) -> None:
    [dense_run] = minilm.analyze(["The cat sat on the mat."])
    [found] = minilm.analyze(["The cat sat on the mat."], attention=Longformer(window=18), compare=True)
    assert_close(found.hidden, dense_run.hidden, rtol=0, atol=1e-5)
    assert_close(found.attention["encoder"].weights, dense_run.attention["encoder"].weights, rtol=0, atol=1e-5)
    assert found.attention["encoder"].comparison.weight_error.max() < 1e-5

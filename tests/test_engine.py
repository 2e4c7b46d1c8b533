"""Analyses of tiny random models: equal to transformers' eager attention, alone and in a batch, and kept as was asked."""

from pathlib import Path

import pytest
import tiny
import torch
import transformers

import kqv
from kqv.analysis import Analysis, GroupAnalysis

SENTENCES = ["The cat sat on the mat.", "a", "who saw the dog playing in the sun, and the dog ran to it?", "the the the the", "!"]
# float32 keeps 2^-24 of a score around 10 and of sums of 35 to 53 such terms; measured, it comes to a fifth of these.
WEIGHTS, HIDDEN = {"rtol": 0, "atol": 1e-5}, {"rtol": 0, "atol": 1e-4}
REMADE = {"rtol": 5e-6, "atol": 1e-6}  # a crop is made of the log-sum-exp, by matrix products of other shapes: 2e-6 apart at worst


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models") / "tiny-bert"


@pytest.fixture(scope="module")
def reference(directory: Path) -> transformers.BertModel:
    torch.manual_seed(0)
    return tiny.bert(directory)


@pytest.fixture(scope="module")
def model(directory: Path, reference: transformers.BertModel) -> kqv.Model:
    return kqv.load(directory)


def encoder(analysis: Analysis) -> GroupAnalysis:
    return analysis.attention["encoder"]


def expect(reference: transformers.BertModel, ids: list[int], types: list[int] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """transformers' weights [L, H, n, n] and last hidden state [n, W] for one sequence."""
    with torch.inference_mode():
        token_types = None if types is None else torch.tensor([types])
        output = reference(torch.tensor([ids]), token_type_ids=token_types, output_attentions=True)
    return torch.cat(output.attentions), output.last_hidden_state[0]


def test_equals_transformers_alone_and_in_a_batch(model: kqv.Model, reference: transformers.BertModel) -> None:
    together = model.analyze(SENTENCES)
    for sentence, batched in zip(SENTENCES, together, strict=True):
        [alone] = model.analyze([sentence])
        assert alone.token_ids == batched.token_ids
        weights, hidden = expect(reference, list(alone.token_ids))
        for analysis in (alone, batched):
            torch.testing.assert_close(encoder(analysis).weights, weights, **WEIGHTS)
            torch.testing.assert_close(analysis.hidden, hidden, **HIDDEN)


def test_second_segments_equal_transformers(model: kqv.Model, reference: transformers.BertModel) -> None:
    [analysis] = model.analyze([kqv.Input(text="the cat sat", pair="who saw it?")])
    assert analysis.tokens == ("[CLS]", "the", "cat", "sat", "[SEP]", "who", "saw", "it", "?", "[SEP]")
    weights, hidden = expect(reference, list(analysis.token_ids), [0] * 5 + [1] * 5)
    torch.testing.assert_close(encoder(analysis).weights, weights, **WEIGHTS)
    torch.testing.assert_close(analysis.hidden, hidden, **HIDDEN)


def test_embeddings_of_the_tokens_give_what_the_tokens_give(model: kqv.Model) -> None:
    [of_text, other] = model.analyze(SENTENCES[:2])
    table = model.transformer.encoder.embedding.tokens.weight
    [of_vectors, unmoved] = model.analyze([table[list(of_text.token_ids)], SENTENCES[1]])
    torch.testing.assert_close(encoder(of_vectors).weights, encoder(of_text).weights, **WEIGHTS)
    torch.testing.assert_close(of_vectors.hidden, of_text.hidden, **HIDDEN)
    torch.testing.assert_close(unmoved.hidden, other.hidden, **HIDDEN)
    assert of_vectors.tokens is None
    assert of_vectors.token_ids is None
    assert encoder(of_vectors).diagnostics["duplicate"].isnan().all()


def test_forward_is_the_same_pass(model: kqv.Model) -> None:
    for hidden, analysis in zip(model.forward(SENTENCES), model.analyze(SENTENCES), strict=True):
        torch.testing.assert_close(hidden, analysis.hidden, **HIDDEN)


def test_jobs_of_one_batch_may_ask_for_different_things(model: kqv.Model) -> None:
    selections = [
        kqv.Selection(weights="none", diagnostics="none"),
        kqv.Selection(layers=(1,), heads=(4, 0), outputs=("q", "pooled")),
        kqv.Selection(weights="top", top_k=2, diagnostics=("entropy", "similarity"), per_query=True),
    ]
    jobs = [kqv.Job(model.read(sentence), selection) for sentence, selection in zip(SENTENCES, selections, strict=False)]
    nothing, some, top = model.analyze_jobs(jobs)
    assert nothing.attention == {}
    assert nothing.checks is None
    assert nothing.hidden is not None
    [whole] = model.analyze([SENTENCES[1]])
    assert encoder(some).layers == (1,)
    assert encoder(some).heads == (4, 0)
    torch.testing.assert_close(encoder(some).weights, encoder(whole).weights[[1]][:, [4, 0]], **WEIGHTS)
    assert encoder(some).q.shape == (1, 2, 3, 7)
    assert some.hidden is None
    assert some.pooled.shape == (35,)
    assert encoder(top).weights is None
    assert encoder(top).diagnostics["entropy"].shape == (3, 5, len(top.tokens))
    assert encoder(top).diagnostics["similarity"].shape == (3, 5, 5)


def test_negative_indices_count_from_the_end(model: kqv.Model) -> None:
    [whole] = model.analyze(SENTENCES[:1])
    [last] = model.analyze(SENTENCES[:1], layers=(-1, 0), heads=(-2,))
    assert encoder(last).layers == (2, 0)
    assert encoder(last).heads == (3,)
    torch.testing.assert_close(encoder(last).weights, encoder(whole).weights[[2, 0]][:, [3]], **WEIGHTS)


def test_crops_are_parts_of_the_whole_map_and_leave_the_means_alone(model: kqv.Model) -> None:
    [whole] = model.analyze(SENTENCES[:1], outputs=("scaled_scores",))
    [cropped] = model.analyze(SENTENCES[:1], queries=(2, 5), keys=(1, 9), outputs=("scaled_scores",))
    torch.testing.assert_close(encoder(cropped).weights, encoder(whole).weights[:, :, 2:5, 1:9], **REMADE)
    torch.testing.assert_close(encoder(cropped).scaled_scores, encoder(whole).scaled_scores[:, :, 2:5, 1:9], **REMADE)
    torch.testing.assert_close(encoder(cropped).diagnostics, encoder(whole).diagnostics, rtol=0, atol=0, equal_nan=True)
    [per_query] = model.analyze(SENTENCES[:1], queries=(2, 5), per_query=True)
    assert encoder(per_query).diagnostics["entropy"].shape == (3, 5, 3)


def test_top_weights_are_the_strongest_of_the_map(model: kqv.Model) -> None:
    [whole] = model.analyze(SENTENCES[:1])
    [top] = model.analyze(SENTENCES[:1], weights="top", top_k=3, keys=(2, 9))
    weights = encoder(whole).weights
    assert encoder(top).top.keys.min() >= 2
    torch.testing.assert_close(weights.gather(-1, encoder(top).top.keys), encoder(top).top.weights, **REMADE)
    torch.testing.assert_close(encoder(top).top.weights, weights[..., 2:9].sort(-1, descending=True).values[..., :3], **REMADE)
    [all_keys] = model.analyze(SENTENCES[:1], weights="top", top_k=1000)
    assert encoder(all_keys).top.keys.shape == weights.shape


def test_pooled_maps_keep_the_peak_of_each_tile(model: kqv.Model) -> None:
    [whole] = model.analyze(SENTENCES[2:3])
    [pooled] = model.analyze(SENTENCES[2:3], weights="pooled", pool=5)
    weights, n = encoder(whole).weights, len(whole.tokens)
    assert n == 19
    bounds = [0, 4, 8, 12, 16, 19]
    for row in range(5):
        for column in range(5):
            peak = weights[:, :, bounds[row] : bounds[row + 1], bounds[column] : bounds[column + 1]].amax((-2, -1))
            torch.testing.assert_close(encoder(pooled).pooled[:, :, row, column], peak, **REMADE)
    [small] = model.analyze(["a"], weights="pooled")
    assert encoder(small).pooled.shape == (3, 5, 3, 3)


def test_steps_lead_from_queries_and_keys_to_outputs(model: kqv.Model) -> None:
    [found] = model.analyze(SENTENCES[:1], outputs=("q", "k", "v", "scaled_scores", "head_outputs"))
    group = encoder(found)
    torch.testing.assert_close(group.q @ group.k.mT / 7**0.5, group.scaled_scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(group.scaled_scores.softmax(-1), group.weights, **WEIGHTS)
    torch.testing.assert_close(group.weights @ group.v, group.head_outputs, **HIDDEN)


def test_checks_are_measured(model: kqv.Model) -> None:
    [found] = model.analyze(SENTENCES[:1])
    assert 0 < found.checks.row_sum_error < 1e-6
    assert found.checks.forbidden_mass == 0


def test_the_answer_is_as_large_as_predicted(model: kqv.Model) -> None:
    selections = [
        kqv.Selection(),
        kqv.Selection(
            weights="top", queries=(1, 4), outputs=("hidden", "pooled", "q", "scaled_scores", "head_outputs"), per_query=True
        ),
        kqv.Selection(weights="pooled", pool=4, layers=(0,), heads=(1, 2), diagnostics=("similarity", "first", "max_received")),
        kqv.Selection(weights="none", diagnostics="none"),
    ]
    for selection in selections:
        sequence = model.read(SENTENCES[2])
        [found] = model.analyze_jobs([kqv.Job(sequence, selection)])
        tensors = [found.hidden, found.pooled, found.logits]
        for group in found.attention.values():
            tensors += [group.weights, group.pooled, group.q, group.k, group.v, group.scaled_scores, group.head_outputs]
            tensors += [*group.diagnostics.values(), *([group.top.keys, group.top.weights] if group.top else [])]
        assert model.answer_numbers(sequence, selection) == sum(tensor.numel() for tensor in tensors if tensor is not None)


def test_double_precision_agrees_with_single(directory: Path, model: kqv.Model, reference: transformers.BertModel) -> None:
    [double] = kqv.load(directory, dtype=torch.float64).analyze(SENTENCES[:1])
    [single] = model.analyze(SENTENCES[:1])
    assert double.hidden.dtype == torch.float64
    torch.testing.assert_close(single.hidden.double(), double.hidden, **HIDDEN)


BAD_SELECTIONS = [
    ({"layers": (3,)}, "layers has 3, but the model has 3: 0 to 2", ("layers", 0)),
    ({"heads": (0, -6)}, "heads has -6", ("heads", 1)),
    ({"layers": ()}, "layers is empty", ("layers",)),
    ({"queries": (3, 3)}, "0 <= start < stop <= 9", ("queries",)),
    ({"queries": (5, 2)}, "0 <= start < stop <= 9", ("queries",)),
    ({"keys": (0, 10)}, "0 <= start < stop <= 9", ("keys",)),
    ({"keys": (-1, 3)}, "0 <= start < stop <= 9", ("keys",)),
    ({"weights": "most"}, "weights is one of full, top, pooled, none", ("weights",)),
    ({"top_k": 0}, "top_k is 1 or more", ("top_k",)),
    ({"pool": 0}, "pool is 1 or more", ("pool",)),
    ({"diagnostics": ("entropy", "entropi")}, "'entropi'; there are entropy, ", ("diagnostics", 1)),
    ({"diagnostics": "entropy"}, 'diagnostics is "all", "none" or a tuple of ids', ("diagnostics",)),
    ({"diagnostics": ["entropi"]}, "'entropi'; there are entropy, ", ("diagnostics", 0)),
    ({"outputs": ("attention",)}, "'attention'; there are hidden, ", ("outputs", 0)),
    ({"outputs": ("logits",)}, "has no language-model head", ("outputs",)),
]


@pytest.mark.parametrize(("selection", "message", "location"), BAD_SELECTIONS)
def test_a_selection_that_means_nothing_is_refused(
    model: kqv.Model, selection: dict[str, object], message: str, location: tuple
) -> None:
    with pytest.raises(kqv.InputError) as caught:
        model.analyze(SENTENCES[:1], **selection)
    assert message in str(caught.value)
    assert caught.value.location == location


def test_measures_may_come_as_a_list(model: kqv.Model) -> None:
    [found] = model.analyze(SENTENCES[:1], diagnostics=["entropy", "previous"], weights="none")
    assert list(found.attention["encoder"].diagnostics) == ["entropy", "previous"]


BAD_INPUTS = [
    ("", "text is empty", (1, "text")),
    ("half \ud83d a pair", "surrogate", (1, "text")),
    ([], "at least one token", (1,)),
    ([1, -1], "from 0 to 96, not -1", (1, "tokens", 1)),
    ([97], "from 0 to 96, not 97", (1, "tokens", 0)),
    ([1.0], "not 1.0", (1, "tokens", 0)),
    ([True], "not True", (1, "tokens", 0)),
    ([5] * 42, "42 tokens, 1 more than the model's context of 41", (1, "tokens")),
    ("the " * 40, "42 tokens, 1 more than the model's context of 41", (1, "text")),
    (torch.zeros(42, 35), "42 tokens, 1 more", (1, "embeddings")),
    (torch.zeros(2, 34), "[tokens, 35] for this model, not [2, 34]", (1, "embeddings")),
    (torch.zeros(35), "[tokens, 35] for this model, not [35]", (1, "embeddings")),
    (torch.full((1, 35), torch.nan), "NaN", (1, "embeddings")),
    (torch.full((1, 35), -torch.inf), "infinity", (1, "embeddings")),
    (torch.full((1, 35), 1e30), "overflows float32", (1, "embeddings")),
]


@pytest.mark.parametrize(("given", "message", "location"), BAD_INPUTS)
def test_an_input_that_cannot_be_read_is_refused(model: kqv.Model, given: object, message: str, location: tuple) -> None:
    with pytest.raises(kqv.InputError) as caught:
        model.analyze([SENTENCES[0], given])
    assert message in str(caught.value)
    assert caught.value.location == location


@pytest.mark.parametrize(
    "fields",
    [{}, {"text": "a", "tokens": [1]}, {"tokens": [1], "pair": "b"}],
    ids=["nothing", "two kinds", "a pair without a text"],
)
def test_an_input_of_several_kinds_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(kqv.InputError):
        kqv.Input(**fields)


def test_the_largest_embeddings_allowed_stay_finite(model: kqv.Model) -> None:
    largest = 0.99 * (torch.finfo(torch.float32).max / 35) ** 0.5
    [found] = model.analyze([largest * torch.randn(5, 35).sign()])
    assert found.hidden.isfinite().all()
    assert encoder(found).weights.isfinite().all()


@pytest.mark.parametrize(("side", "kept"), [("left", slice(-41, None)), ("right", slice(0, 41))])
def test_truncation_keeps_the_other_end(model: kqv.Model, side: str, kept: slice) -> None:
    ids = [5 + index % 20 for index in range(50)]
    [of_ids] = model.analyze([ids], truncate=side)
    assert list(of_ids.token_ids) == ids[kept]
    assert of_ids.truncated == 9
    vectors = torch.randn(50, 35)
    [of_vectors, expected] = model.analyze([vectors, vectors[kept]], truncate=side)
    torch.testing.assert_close(of_vectors.hidden, expected.hidden, **HIDDEN)


def test_truncated_text_keeps_its_special_tokens(model: kqv.Model) -> None:
    words = "cat " * 20 + "dog " * 30
    [right] = model.analyze([words], truncate="right")
    assert right.tokens == ("[CLS]", *["cat"] * 20, *["dog"] * 19, "[SEP]")
    assert right.truncated == 11
    [left] = model.analyze([words], truncate="left")
    assert left.tokens == ("[CLS]", *["cat"] * 9, *["dog"] * 30, "[SEP]")


def test_truncation_takes_from_the_longer_segment(model: kqv.Model) -> None:
    [found] = model.analyze([kqv.Input(text="cat " * 60, pair="dog ran")], truncate="right")
    assert found.tokens == ("[CLS]", *["cat"] * 36, "[SEP]", "dog", "ran", "[SEP]")


def test_without_a_tokenizer_ids_still_work(directory: Path, tmp_path: Path, model: kqv.Model) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    bare = kqv.load(tmp_path)
    [found] = bare.analyze([[2, 5, 6, 3]])
    [expected] = model.analyze([[2, 5, 6, 3]])
    torch.testing.assert_close(found.hidden, expected.hidden, rtol=0, atol=0)
    assert found.tokens is None
    assert encoder(found).diagnostics["special"].isnan().all()
    with pytest.raises(kqv.UnsupportedError, match="send tokens instead"):
        bare.analyze(["the cat"])


def test_unusual_characters_are_text_like_any_other(model: kqv.Model) -> None:
    for text in ("😀 cat", "שלום cat", "\0cat", "\N{RIGHT-TO-LEFT OVERRIDE}cat", "e\u0301 cat", "cat" * 1):
        [found] = model.analyze([text])
        assert found.hidden.isfinite().all()
        assert found.tokens[0] == "[CLS]"


@pytest.mark.parametrize("device", ["nowhere", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(directory: Path, reference: transformers.BertModel, device: str) -> None:
    with pytest.raises(kqv.UnsupportedError, match=f"no device '{device}'"):
        kqv.load(directory, device=device)

"""Every diagnostic against a closed form or a planted answer."""

import math

import pytest
import torch
from torch import Tensor

from kqv.attention.dense import dense
from kqv.attention.masks import Causal, Everything, Mask, Table
from kqv.attention.relations import Tokens
from kqv.diagnostics import DEFAULT_DIAGNOSTICS, DIAGNOSTICS, Subject, diagnose

CPU = torch.device("cpu")
CLOSE = {"rtol": 1e-12, "atol": 1e-12, "equal_nan": True}  # float64 sums of at most 29 terms
NAN = math.nan


def subject(weights: Tensor, visible: Tensor | None = None, **facts: object) -> Subject:
    """Weights [H, T, S] with what may be seen; the head outputs are the weights themselves."""
    queries, keys = weights.shape[1:]
    tokens = Tokens(queries, keys, CPU, **facts)  # type: ignore[arg-type]
    return Subject(weights, torch.ones(1, queries, keys, dtype=torch.bool) if visible is None else visible, weights, tokens)


def attention(scores: Tensor, mask: Mask = Everything(), **facts: object) -> Subject:
    """The subject of a head with the given scores [T, S]."""
    result = dense(
        scores[None, None], torch.eye(scores.shape[1], dtype=scores.dtype)[None, None], scores[None, None].mT, mask=mask, scale=1.0
    )
    entry = result.entry(0)
    assert entry.weights is not None and entry.visible is not None
    return subject(entry.weights, entry.visible, **facts)


def uniform_causal(n: int, **facts: object) -> Subject:
    return attention(torch.zeros(n, n, dtype=torch.float64), Causal(), **facts)


def per_query(of: Subject, name: str) -> Tensor:
    return diagnose(of, [name], per_query=True)[name][0]


def mean(of: Subject, name: str) -> float:
    return diagnose(of, [name])[name].item()


def test_there_is_every_diagnostic_of_version_one() -> None:
    default = (
        "entropy normalized_entropy max_weight effective_tokens top_k_mass distance self previous next first special duplicate "
        "induction output_norm"
    ).split()
    assert list(DEFAULT_DIAGNOSTICS) == default
    assert list(DIAGNOSTICS) == [*default, "max_received", "similarity"]


I = torch.arange(29, dtype=torch.float64)  # noqa: E741 - the query's index in the closed forms
CLOSED_FORMS = {
    "entropy": (I + 1).log(),
    "normalized_entropy": torch.cat([torch.tensor([NAN]), torch.ones(28)]),
    "max_weight": 1 / (I + 1),
    "effective_tokens": I + 1,
    "top_k_mass": (8 / (I + 1)).clamp(max=1),
    "distance": I / 2,
    "self": 1 / (I + 1),
    "previous": torch.cat([torch.tensor([NAN]), 1 / (I[1:] + 1)]),
    "next": torch.full((29,), NAN),
    "first": 1 / (I + 1),
    "special": torch.full((29,), NAN),
    "duplicate": torch.full((29,), NAN),
    "induction": torch.full((29,), NAN),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_uniform_causal_attention(name: str) -> None:
    expected = CLOSED_FORMS[name].double()
    distinct = uniform_causal(29, ids=torch.arange(29), special=torch.zeros(29, dtype=torch.bool))
    torch.testing.assert_close(per_query(distinct, name), expected, **CLOSE)
    torch.testing.assert_close(torch.tensor(mean(distinct, name)).double(), expected.nanmean(), rtol=1e-6, atol=0, equal_nan=True)


def test_attention_to_oneself_alone() -> None:
    identity = attention(1e4 * torch.eye(7, dtype=torch.float64))
    found = diagnose(identity, ["entropy", "self", "effective_tokens", "max_weight", "distance", "next", "similarity"])
    expected = {"entropy": 0, "self": 1, "effective_tokens": 1, "max_weight": 1, "distance": 0, "next": 0, "similarity": 0}
    assert {name: figure.item() for name, figure in found.items()} == expected


def test_a_linear_bias_makes_a_geometric_series() -> None:
    """ALiBi with zero keys: the weight on the key d places back is proportional to e^(−slope·d)."""
    n, slope = 11, 0.5
    offset = torch.arange(n, dtype=torch.float64)
    alibi = attention(slope * (offset - offset[:, None]), Causal())
    ratio = math.exp(-slope)
    total = (1 - ratio**n) / (1 - ratio)
    last = {name: per_query(alibi, name)[-1].item() for name in ("self", "previous", "first", "distance")}
    assert last["self"] == pytest.approx(1 / total, rel=1e-12)
    assert last["previous"] == pytest.approx(ratio / total, rel=1e-12)
    assert last["first"] == pytest.approx(ratio ** (n - 1) / total, rel=1e-12)
    assert last["distance"] == pytest.approx(sum(d * ratio**d for d in range(n)) / total, rel=1e-12)


def test_duplicates_and_inductions_of_a_repeated_text() -> None:
    """BOS a b c a b c: duplicates at rows 4–6 are columns 1–3, inductions columns 2–4."""
    ids = torch.tensor([0, 1, 2, 3, 1, 2, 3])
    weights = torch.rand(1, 7, 7, dtype=torch.float64).tril()
    weights /= weights.sum(-1, keepdim=True)
    causal = torch.ones(1, 7, 7, dtype=torch.bool).tril()
    repeated = subject(weights, causal, ids=ids)
    blank = [NAN] * 4
    duplicates = [weights[0, row, row - 3].item() for row in (4, 5, 6)]
    inductions = [weights[0, row, row - 2].item() for row in (4, 5, 6)]
    torch.testing.assert_close(per_query(repeated, "duplicate"), torch.tensor(blank + duplicates, dtype=torch.float64), **CLOSE)
    torch.testing.assert_close(per_query(repeated, "induction"), torch.tensor(blank + inductions, dtype=torch.float64), **CLOSE)


def test_duplicates_count_on_both_sides_without_a_causal_mask() -> None:
    uniform = attention(torch.zeros(5, 5, dtype=torch.float64), ids=torch.tensor([7, 8, 7, 9, 7]))
    torch.testing.assert_close(
        per_query(uniform, "duplicate"), torch.tensor([0.4, NAN, 0.4, NAN, 0.4], dtype=torch.float64), **CLOSE
    )
    # t_{j−1} = t_i with 1 ≤ j < i: token 2 after 0, token 4 after 0 and after 2.
    torch.testing.assert_close(
        per_query(uniform, "induction"), torch.tensor([NAN, NAN, 0.2, NAN, 0.4], dtype=torch.float64), **CLOSE
    )


def test_an_induction_circuit_shows_in_both_its_layers() -> None:
    """One-hot tokens and positions, sharpness 30: layer 0 looks one token back, layer 1 at what followed the last occurrence."""
    torch.manual_seed(0)
    stretch = 1 + torch.randperm(24)
    ids = torch.cat([torch.tensor([0]), stretch, stretch])
    n = len(ids)
    position = torch.eye(n, dtype=torch.float64)
    layer_0 = attention(30 * position.roll(1, 0) @ position.T, Causal(), ids=ids)
    token = torch.nn.functional.one_hot(ids).double()
    carried = layer_0.weights[0] @ token  # each position now knows the token before it
    layer_1 = attention(30 * token @ carried.T, Causal(), ids=ids)
    assert mean(layer_0, "previous") > 0.99
    assert mean(layer_1, "induction") > 0.99
    assert mean(layer_0, "induction") < 0.05


def test_next_is_defined_where_the_next_key_may_be_seen() -> None:
    weights = torch.tensor([[[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.2, 0.3, 0.5]]], dtype=torch.float64)
    visible = torch.tensor([[[1, 1, 0], [1, 1, 0], [1, 1, 1]]], dtype=torch.bool)
    torch.testing.assert_close(
        per_query(subject(weights, visible), "next"), torch.tensor([0.5, NAN, NAN], dtype=torch.float64), **CLOSE
    )


def test_special_tokens_gather_their_mass() -> None:
    weights = torch.tensor([[[0.1, 0.2, 0.7], [0.3, 0.3, 0.4], [1.0, 0.0, 0.0]]], dtype=torch.float64)
    marked = subject(weights, special=torch.tensor([True, False, True]))
    torch.testing.assert_close(per_query(marked, "special"), torch.tensor([0.8, 0.7, 1.0], dtype=torch.float64), **CLOSE)


def test_top_k_mass_of_fewer_keys_is_everything() -> None:
    weights = torch.tensor([[[0.1, 0.2, 0.7]]], dtype=torch.float64)
    three = subject(weights)
    one = Subject(weights, three.visible, weights, three.tokens, top_k=1)
    assert mean(three, "top_k_mass") == pytest.approx(1)
    assert mean(one, "top_k_mass") == pytest.approx(0.7)


def test_output_norm_is_what_the_head_adds_to_the_stream() -> None:
    heads, width, d = 2, 5, 3
    weights = torch.full((heads, 2, 2), 0.5, dtype=torch.float64)
    outputs, w_o = torch.randn(heads, 2, d, dtype=torch.float64), torch.randn(width, heads, d, dtype=torch.float64)
    of = Subject(weights, torch.ones(1, 2, 2, dtype=torch.bool), outputs, Tokens(2, 2, CPU), w_o)
    expected = torch.stack([torch.stack([(w_o[:, head] @ z).norm() for z in outputs[head]]) for head in range(heads)])
    torch.testing.assert_close(diagnose(of, ["output_norm"], per_query=True)["output_norm"], expected, **CLOSE)


def test_max_received_finds_the_sink_wherever_it_is() -> None:
    weights = torch.tensor([[[0.1, 0.9, 0.0], [0.2, 0.7, 0.1], [0.3, 0.5, 0.2]]], dtype=torch.float64)
    assert mean(subject(weights), "max_received") == pytest.approx(0.7)
    assert diagnose(subject(weights), ["max_received"], per_query=True)["max_received"].shape == (1,)


def test_similarity_is_the_jensen_shannon_divergence_of_pairs_of_heads() -> None:
    apart = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 0.0]]], dtype=torch.float64)
    found = diagnose(subject(apart), ["similarity"])["similarity"]
    expected = math.log(2) * torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("name", [name for name in DIAGNOSTICS if name != "similarity"])
def test_queries_that_see_nothing_are_in_no_figure(name: str) -> None:
    torch.manual_seed(1)
    scores = torch.randn(5, 5, dtype=torch.float64)
    table = torch.ones(5, 5, dtype=torch.bool).tril()
    ids, special = torch.tensor([3, 1, 3, 1, 1]), torch.tensor([True, False, False, False, False])
    table[3] = False
    with_blind = attention(scores, Table(table[None, None]), ids=ids, special=special)
    figures = diagnose(with_blind, [name], per_query=True)[name]
    if not DIAGNOSTICS[name].of_head:
        assert figures[0, 3].isnan()
        torch.testing.assert_close(diagnose(with_blind, [name])[name], figures.nanmean(-1), **CLOSE)
    else:
        received = with_blind.weights[0].sum(0) / 4
        torch.testing.assert_close(figures[0], received.max(), **CLOSE)


@pytest.mark.parametrize("name", ["distance", "self", "previous", "next", "duplicate", "induction"])
def test_positions_are_not_compared_across_two_sequences(name: str) -> None:
    cross = subject(torch.full((1, 3, 5), 0.2, dtype=torch.float64), same=False, ids=torch.tensor([1, 1, 2, 2, 1]))
    assert math.isnan(mean(cross, name))


@pytest.mark.parametrize("name", ["duplicate", "induction", "special"])
def test_token_measures_are_undefined_without_tokens(name: str) -> None:
    assert math.isnan(mean(uniform_causal(5), name))

"""Performer's attention: the formula of the paper, in exact sums over features; an estimate of the softmax that isn't biased."""

import math
import warnings
from functools import partial
from importlib import import_module
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import kqv
from kqv.attention import performer
from kqv.attention.dense import dense
from kqv.attention.drawing import generator, orthogonal
from kqv.attention.masks import Causal, Everything, Window
from kqv.attention.performer import Performer


def qkv(queries: int = 11, keys: int = 11, heads: int = 3, groups: int = 3, width: int = 7, batch: int = 1) -> list[torch.Tensor]:
    shapes = (batch, heads, queries, width), (batch, groups, keys, width), (batch, groups, keys, 5)
    return [torch.randn(shape) for shape in shapes]


def by_the_formula(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, w: torch.Tensor, causal: bool) -> list[torch.Tensor]:
    """φ(x) = exp(w·x − |x|²/2)/√m of each query and key, every pair's product, and what follows of it."""
    phi_q, phi_k = (torch.exp(x @ w.T - x.square().sum(-1, keepdim=True) / 2) / math.sqrt(len(w)) for x in (q, k))
    products = phi_q @ phi_k.mT
    if causal:
        products = products.tril()
    weights = products / products.sum(-1, keepdim=True)
    return [weights @ v, weights, products.sum(-1).log()]


@pytest.fixture(scope="module")
def package() -> Any:
    """performer-pytorch, which imports much that is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module("performer_pytorch.performer_pytorch")


@pytest.mark.parametrize("causal", [False, True])
def test_it_equals_the_package_with_its_projection(package: Any, causal: bool) -> None:
    """Without the 1e-4 that the package adds to every feature after stabilising, so that what it amounts to depends on the largest
    key of all, later ones included: adding nothing, the two coincide."""
    w = package.gaussian_orthogonal_random_matrix(32, 7)
    q, k, v = qkv(150, 150, batch=2)
    phi_q, phi_k = (package.softmax_kernel(x, projection_matrix=w, is_query=x is q, eps=0.0) for x in (q, k))
    linear = partial(package.causal_linear_attention_noncuda, eps=0.0) if causal else package.linear_attention
    found = Performer(projection=w)(q, k, v, mask=Causal() if causal else Everything())
    assert_close(found.output, linear(phi_q, phi_k, v), rtol=1e-4, atol=1e-4)


def test_it_is_near_the_package_as_that_comes(package: Any) -> None:
    attention = package.FastAttention(7, nb_features=32)
    q, k, v = (tensor / 4 for tensor in qkv(150, 150, batch=2))
    found = Performer(projection=attention.projection_matrix)(q, k, v)
    assert_close(found.output, attention(q, k, v), rtol=0, atol=1e-4)


@settings(max_examples=50)
@given(
    queries=st.integers(1, 19),
    keys=st.integers(1, 17),
    width=st.integers(1, 9),
    features=st.integers(1, 23),
    groups=st.sampled_from([1, 2, 4]),
    causal=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_row_equals_its_formula(
    queries: int, keys: int, width: int, features: int, groups: int, causal: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    q, k, v = qkv(queries, queries if causal else keys, 4, groups, width, batch=2)
    w = torch.randn(features, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(performer, "CHUNK", 4)
        found = Performer(projection=w)(q, k, v, mask=Causal() if causal else Everything(), scale=0.3, weights=True)
    k, v = (tensor.repeat_interleave(4 // groups, 1).double() for tensor in (k, v))
    output, weights, logsumexp = by_the_formula(q.double() * 0.3**0.5, k * 0.3**0.5, v, w.double(), causal)
    assert_close(found.output, output.float(), rtol=1e-4, atol=1e-5)
    assert_close(found.weights, weights.float(), rtol=1e-4, atol=1e-6)
    assert_close(found.logsumexp, logsumexp.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_keys_of_any_size_leave_every_row_its_weights(causal: bool) -> None:
    """Features over so many powers of e that neither float32 nor one peak for a chunk could hold them."""
    q, k, v = qkv(150, 150, 1, 1)
    k *= torch.linspace(40, 0.1, 150)[:, None]  # the last are the largest: φ(k) falls with |k|²
    mask = Causal() if causal else Everything()
    found = Performer(features=32)(q, k, v, mask=mask, weights=True)
    exact = Performer(features=32)(q.double(), k.double(), v.double(), mask=mask, weights=True)
    assert_close(found.output, exact.output.float(), rtol=0, atol=1e-3)
    assert_close(found.weights.sum(-1), torch.ones(1, 1, 150))
    assert_close(found.logsumexp, exact.logsumexp.float(), rtol=1e-5, atol=1e-3)


def test_a_neighbour_in_the_batch_shifts_nothing() -> None:
    q, k, v = qkv(batch=2)
    alone = Performer(features=16)(q[:1], k[:1], v[:1]).output
    k[1] *= 50
    assert torch.equal(Performer(features=16)(q, k, v).output[:1], alone)


def test_later_tokens_shift_nothing_under_a_causal_mask() -> None:
    q, k, v = qkv(300, 300)
    whole = Performer(features=16)(q, k, v, mask=Causal()).output
    part = Performer(features=16)(*(tensor[:, :, :200] for tensor in (q, k, v)), mask=Causal()).output
    assert_close(whole[:, :, :200], part)


def test_the_sum_over_keys_is_not_biased() -> None:
    """The mean over seeds of the estimated Σ exp(q·k·scale) comes as close to it as chance allows, from either side."""
    q, k, v = (tensor / 3 for tensor in qkv(5, 13, 1, 1))
    exact = dense(q, k, v)
    estimates = [Performer(features=7, seed=seed)(q, k, v).logsumexp.double().exp() for seed in range(400)]
    ratios = torch.stack(estimates) / exact.logsumexp.double().exp()
    standard_error = ratios.std(0) / math.sqrt(len(estimates))
    assert ((ratios.mean(0) - 1).abs() < 4 * standard_error).all()
    assert (standard_error < 0.03).all()


def test_the_error_falls_as_one_over_the_root_of_the_features() -> None:
    q, k, v = (tensor / 4 for tensor in qkv(32, 32, 2, 2, width=16))
    exact = dense(q, k, v).output
    counts = torch.tensor([16, 32, 64, 128])
    errors = []
    for count in counts.tolist():
        drawn = [Performer(features=count, seed=seed)(q, k, v).output - exact for seed in range(60)]
        errors.append(torch.stack(drawn).square().mean().sqrt())
    logs = torch.stack([counts.log(), torch.ones(len(counts))], -1)
    slope = torch.linalg.lstsq(logs, torch.stack(errors).log()[:, None]).solution[0].item()
    assert slope == pytest.approx(-0.5, abs=0.05)


def test_directions_are_orthogonal_and_as_long_as_gaussian_ones() -> None:
    w = orthogonal(4007, 5, generator(0))
    assert w.shape == (4007, 5)
    squares = w[:4005].unflatten(0, (-1, 5))
    angles = squares @ squares.mT
    assert_close(angles, torch.diag_embed(angles.diagonal(dim1=1, dim2=2)), rtol=0, atol=1e-5)
    assert_close(w.square().sum(-1).mean(), torch.tensor(5.0), rtol=0.03, atol=0)
    assert_close(w.mean(0), torch.zeros(5), rtol=0, atol=0.06)  # a decomposition with its signs unsettled leans to one side
    assert_close(w.T @ w / len(w), torch.eye(5), rtol=0, atol=0.08)


def test_orthogonal_features_are_better_than_independent_ones() -> None:
    q, k, v = (tensor / 3 for tensor in qkv(32, 32, 2, 2, width=16))
    exact = dense(q, k, v).output

    def error(attention: Performer) -> torch.Tensor:
        return (attention(q, k, v).output - exact).square().mean()

    ours = torch.stack([error(Performer(features=16, seed=seed)) for seed in range(60)])
    independent = torch.stack([error(Performer(projection=torch.randn(16, 16))) for _ in range(60)])
    assert ours.mean() < independent.mean()


def test_each_seed_and_each_layer_draws_features_of_its_own() -> None:
    first = Performer(seed=3)
    assert torch.equal(first.directions(7), Performer(seed=3).directions(7))
    assert not torch.equal(first.directions(7), Performer(seed=4).directions(7))
    assert not torch.equal(first.directions(7), first.at(1).directions(7))
    assert first.directions(7).shape == (round(7 * math.log(7)), 7)
    assert first.directions(1).shape == (1, 1)


def test_the_maps_are_made_only_when_asked() -> None:
    found = Performer(features=4)(*qkv())
    assert found.weights is found.visible is found.scaled_scores is None


def test_a_negative_scale_prefers_what_is_unlike() -> None:
    q, k, v = qkv()
    w = torch.randn(9, 7)
    assert_close(Performer(projection=w)(q, k, v, scale=-0.3).output, Performer(projection=w)(-q, k, v, scale=0.3).output)


def test_half_precision_is_computed_in_float32() -> None:
    q, k, v = (tensor.half() for tensor in qkv())
    found = Performer(features=9)(q, k, v)
    assert_close(found.output, Performer(features=9)(q.float(), k.float(), v.float()).output, rtol=0, atol=0)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str, tuple[str, ...]]] = {
    "no features": ({"features": 0}, {}, "0 features see nothing; take 1 or more", ("attention", "features")),
    "features twice": (
        {"features": 4, "projection": torch.ones(4, 7)},
        {},
        "as many features as rows",
        ("attention", "features"),
    ),
    "a vector": ({"projection": torch.ones(7)}, {}, "[features, width of a head]", ("attention", "projection")),
    "not a number": ({"projection": torch.ones(4, 7) * torch.nan}, {}, "finite numbers", ("attention", "projection")),
    "another width": ({"projection": torch.ones(4, 6)}, {}, "as wide as a head, which is 7", ("attention", "projection")),
    "another mask": ({}, {"mask": Causal() & Window(3, 0)}, "take longformer", ("mask",)),
    "a bias": ({}, {"bias": torch.zeros(11, 11)}, "leave the bias out", ("bias",)),
    "numbers too large": ({}, {"scale": 1e38}, "overflow float32", ("q",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_cannot_do_is_refused(case: str) -> None:
    parameters, options, message, location = REFUSED[case]
    with pytest.raises(kqv.InputError) as caught:
        kqv.attend(*qkv(), attention=Performer(**parameters), **options)
    assert message in str(caught.value)
    assert caught.value.location == location


def test_a_causal_mask_needs_as_many_queries_as_keys() -> None:
    with pytest.raises(kqv.InputError, match="as many queries as keys"):
        kqv.attend(*qkv(5, 7), mask="causal", attention=Performer())

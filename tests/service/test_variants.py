"""Longformer, Linformer and Performer over HTTP are the engine's, each with its distance from dense."""

from typing import Any

import httpx
import numpy as np
import pytest
import torch
from problems import check_invalid, problem
from serving import attend
from torch.testing import assert_close

import kqv
from kqv.attention.longformer import GlobalHeads
from service.wire.answers import AnalyzeAnswer

Q, K, V = (torch.randn(3, 7, width, generator=torch.Generator().manual_seed(width)) for width in (2, 2, 5))
HEADS = {"q": Q.tolist(), "k": K.tolist(), "v": V.tolist()}
E, W = torch.ones(3, 4, 7).cumsum(-1) / 7, torch.randn(6, 2)
VARIANTS: dict[str, tuple[dict[str, Any], Any]] = {
    "longformer": (
        {"kind": "longformer", "window": 2, "dilation": [1, 2, 3], "global_tokens": [-1]},
        kqv.Longformer(window=2, dilation=(1, 2, 3), global_tokens=(6,)),
    ),
    "longformer with global heads": (
        {
            "kind": "longformer",
            "window": 4,
            "global_tokens": [2],
            "global_q": K.tolist(),
            "global_k": Q.tolist(),
            "global_v": V.tolist(),
        },
        kqv.Longformer(window=4, global_tokens=(2,), global_heads=GlobalHeads(K, Q, V)),
    ),
    "linformer": (
        {"kind": "linformer", "rank": 3, "seed": 5, "share_heads": True},
        kqv.Linformer(rank=3, seed=5, share_heads=True),
    ),
    "linformer with matrices": ({"kind": "linformer", "e": E.tolist(), "f": E[0].tolist()}, kqv.Linformer(e=E, f=E[0])),
    "performer": ({"kind": "performer", "features": 8, "seed": 5}, kqv.Performer(features=8, seed=5)),
    "performer with a projection": ({"kind": "performer", "projection": W.tolist()}, kqv.Performer(projection=W)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_tensors_are_attended_as_by_the_engine(client: httpx.Client, name: str) -> None:
    asked, attention = VARIANTS[name]
    answer = attend(client, **HEADS, attention=asked, compare=True)
    expected = kqv.attend(Q, K, V, attention=attention)
    apart = kqv.compare(expected, kqv.attend(Q, K, V))
    assert_close(torch.tensor(answer["weights"]), expected.weights)
    assert_close(torch.tensor(answer["head_outputs"]), expected.output)
    assert answer["comparison"]["output_error"] == pytest.approx(apart.output_error.tolist())
    assert answer["comparison"]["weight_error"] == pytest.approx(apart.weight_error.tolist())
    assert "scores" not in answer
    assert ("scaled_scores" in answer) == attention.scores_pairs
    undefined = None if attention.distributes else [None] * 3
    assert answer["diagnostics"]["entropy"] == (
        undefined or pytest.approx(torch.special.entr(expected.weights).sum(-1).mean(-1).tolist())
    )
    assert answer["diagnostics"]["first"] == pytest.approx(expected.weights[..., 0].mean(-1).tolist())


def test_the_distance_from_dense_by_hand(client: httpx.Client) -> None:
    """Uniform weights of ⅓ against those of two neighbours; values 3 and 6 at the ends."""
    zeros = {"q": [[0.0]] * 3, "k": [[0.0]] * 3, "v": [[3.0], [0.0], [6.0]]}
    answer = attend(client, **zeros, attention={"kind": "longformer", "window": 2}, compare=True, include=["output"])
    assert answer["output"] == [[1.5], [3.0], [3.0]]
    comparison = {"output_error": [pytest.approx(0.5 / 3**0.5)], "weight_error": [pytest.approx(2 / 9)]}
    assert answer == {"output": [[1.5], [3.0], [3.0]], "comparison": comparison}


def test_vectors_have_projections_for_global_tokens(client: httpx.Client) -> None:
    x = torch.randn(7, 6)
    w_q, w_k, w_v = (torch.randn(6, 6) for _ in range(3))
    asked = {"kind": "longformer", "window": 2, "global_tokens": [0]}
    asked |= {"w_q_global": w_q.tolist(), "w_k_global": w_k.tolist(), "w_v_global": w_v.tolist()}
    answer = attend(client, x=x.tolist(), num_heads=2, seed=0, attention=asked)
    wide = kqv.multi_head(x, kqv.Projections(w_q, w_k, w_v, torch.eye(6)), 2)
    assert_close(torch.tensor(answer["weights"])[:, 0], wide.attention.weights[:, 0])
    assert_close(torch.tensor(answer["head_outputs"])[:, 0], wide.attention.output[:, 0])
    assert_close(torch.tensor(answer["weights"])[:, 5, 2:4], torch.zeros(2, 2))


LONG = np.random.default_rng(0).standard_normal((400, 1)).round(2).tolist()
SMALL = {
    "longformer": {"kind": "longformer", "window": 8},
    "linformer": {"kind": "linformer", "rank": 8},
    "performer": {"kind": "performer", "features": 8},
}


@pytest.mark.parametrize("kind", SMALL)
def test_long_sequences_are_attended_without_maps(client: httpx.Client, kind: str) -> None:
    body = {"q": LONG, "k": LONG, "v": LONG, "attention": SMALL[kind]}
    assert np.shape(attend(client, **body, include=["output"])["output"]) == (400, 1)
    for maps in ({"compare": True, "include": ["output"]}, {"include": ["weights"]}, {"include": ["diagnostics"]}):
        document = problem(client.post("/v1/attend", json=body | maps), 413)
        assert f"leave maps and compare out, or make {kind} smaller" in document["detail"]


@pytest.mark.parametrize(("kind", "size"), [("linformer", "rank"), ("performer", "features")])
def test_what_would_fill_the_memory_is_refused(client: httpx.Client, kind: str, size: str) -> None:
    body = HEADS | {"attention": {"kind": kind, size: 10**12}, "include": ["output"]}
    assert f"make {kind} smaller" in problem(client.post("/v1/attend", json=body), 413)["detail"]


X = {"x": [[0.0, 1.0]] * 5, "num_heads": 1, "seed": 0}
LONGFORMER, LINFORMER = {"kind": "longformer", "window": 2}, {"kind": "linformer", "rank": 2}
BAD: dict[str, tuple[dict[str, Any], list[str | int], str]] = {
    "unknown kind": (
        HEADS | {"attention": {"kind": "reformer"}},
        ["attention"],
        "a kind, which is longformer, linformer, performer",
    ),
    "no kind": (HEADS | {"attention": {}}, ["attention"], "and its parameters"),
    "another kind's parameter": (HEADS | {"attention": LONGFORMER | {"rank": 3}}, ["attention", "rank"], "no such field"),
    "no window": (HEADS | {"attention": {"kind": "longformer"}}, ["attention", "window"], "window is missing"),
    "window 0": (HEADS | {"attention": {"kind": "longformer", "window": 0}}, ["attention", "window"], "take 2 or more"),
    "window odd": (HEADS | {"attention": {"kind": "longformer", "window": 3}}, ["attention", "window"], "take 2 or 4, not 3"),
    "window beyond n": (HEADS | {"attention": {"kind": "longformer", "window": 16}}, ["attention", "window"], "take at most 14"),
    "window of text": (HEADS | {"attention": {"kind": "longformer", "window": "all"}}, ["attention", "window"], "integer"),
    "dilation 0": (HEADS | {"attention": LONGFORMER | {"dilation": 0}}, ["attention", "dilation"], "1 or more"),
    "dilations of other heads": (HEADS | {"attention": LONGFORMER | {"dilation": [1]}}, ["attention", "dilation"], "for 3 heads"),
    "dilation of text": (
        HEADS | {"attention": LONGFORMER | {"dilation": "1"}},
        ["attention", "dilation"],
        "this is a whole number",
    ),
    "global token out of range": (
        HEADS | {"attention": LONGFORMER | {"global_tokens": [0, 7]}},
        ["attention", "global_tokens", 1],
        "outside the sequence of 7: 0 to 6, or -7 to -1",
    ),
    "global queries alone": (
        HEADS | {"attention": LONGFORMER | {"global_q": Q.tolist()}},
        ["attention", "global_k"],
        "global_q can't do without it",
    ),
    "global projections beside q": (
        HEADS | {"attention": LONGFORMER | {"w_q_global": W.tolist()}},
        ["attention", "w_q_global"],
        "can't stand beside q; give global_q, global_k, global_v",
    ),
    "global queries beside x": (X | {"attention": LONGFORMER | {"global_q": Q.tolist()}}, ["attention", "global_q"], "beside x"),
    "global projections of another width": (
        X | {"attention": LONGFORMER | {name: [[1.0]] for name in ("w_q_global", "w_k_global", "w_v_global")}},
        ["attention", "w_q_global"],
        "w_q_global is [2, a multiple of 1 heads], not [1, 1]",
    ),
    "window across": (
        X | {"context": [[0.0, 1.0]] * 5, "attention": LONGFORMER},
        ["attention", "kind"],
        "take linformer or performer",
    ),
    "no rank": (HEADS | {"attention": {"kind": "linformer"}}, ["attention", "rank"], "give either the rank"),
    "rank 0": (HEADS | {"attention": {"kind": "linformer", "rank": 0}}, ["attention", "rank"], "take 1 or more"),
    "projections of another length": (
        HEADS | {"attention": {"kind": "linformer", "e": E[..., :6].tolist()}},
        ["attention", "e"],
        "which is for 6 keys, and there are 7",
    ),
    "ragged projections": (HEADS | {"attention": {"kind": "linformer", "e": [[1.0], [1.0, 2.0]]}}, ["attention", "e", 1], "ragged"),
    "causal linformer": (HEADS | {"mask": "causal", "attention": LINFORMER}, ["mask"], "take performer or longformer"),
    "biased linformer": (HEADS | {"bias": [[0.0] * 7] * 7, "attention": LINFORMER}, ["bias"], "take longformer"),
    "no features": (HEADS | {"attention": {"kind": "performer", "features": 0}}, ["attention", "features"], "take 1 or more"),
    "features of another width": (
        HEADS | {"attention": {"kind": "performer", "projection": [[1.0]]}},
        ["attention", "projection"],
        "as wide as a head, which is 2",
    ),
    "another mask of performer": (
        HEADS | {"mask": np.tri(7, dtype=bool).tolist(), "attention": {"kind": "performer"}},
        ["mask"],
        "its mask is none, or causal",
    ),
    "a mask that leaves a window empty": (
        HEADS | {"mask": [[key == 0 for key in range(7)]] * 7, "attention": LONGFORMER},
        ["mask"],
        "hides every key from query 2",
    ),
    "scores of linformer": (
        HEADS | {"attention": LINFORMER, "include": ["output", "scaled_scores"]},
        ["include", 1],
        "linformer never makes scaled_scores of all pairs",
    ),
    "dense compared": (HEADS | {"compare": True}, ["compare"], "name one in attention, or leave compare out"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_attended_is_refused(client: httpx.Client, case: str) -> None:
    body, loc, complaint = BAD[case]
    check_invalid(client.post("/v1/attend", json=body), loc, complaint)


TEXT = "the cat sat on the mat"


def analyze(client: httpx.Client, **body: Any) -> Any:
    response = client.post("/v1/analyze", json=body)
    assert response.status_code == 200, response.text
    AnalyzeAnswer.model_validate_json(response.content, strict=True)
    return response.json()["results"]


MODEL_VARIANTS: dict[str, tuple[dict[str, Any], Any]] = {
    "longformer": (
        {"kind": "longformer", "window": 2, "dilation": [1, 2, 1, 2, 1], "global_tokens": [0, -1]},
        kqv.Longformer(window=2, dilation=(1, 2, 1, 2, 1), global_tokens=(0, -1)),
    ),
    "linformer": ({"kind": "linformer", "rank": 3, "share_layers": True}, kqv.Linformer(rank=3, share_layers=True)),
    "performer": ({"kind": "performer", "features": 8, "groups": ["encoder"]}, kqv.Performer(features=8)),
}


@pytest.mark.parametrize("kind", MODEL_VARIANTS)
def test_a_model_runs_under_it(client: httpx.Client, model: kqv.Model, kind: str) -> None:
    asked, attention = MODEL_VARIANTS[kind]
    [found] = analyze(client, input=TEXT, attention=asked, compare=True)
    [expected] = model.analyze([TEXT], attention=attention, compare=True)
    group, theirs = found["attention"]["encoder"], expected.attention["encoder"]
    assert group["attention"] == kind
    assert_close(torch.tensor(found["hidden"]), expected.hidden)
    assert_close(torch.tensor(group["weights"]), theirs.weights)
    for name in ("output_error", "weight_error"):
        assert_close(torch.tensor(group["comparison"][name]), getattr(theirs.comparison, name))
    assert (group["diagnostics"]["entropy"][0][0] is None) == (not attention.distributes)


def test_dense_is_the_models_own_attention(client: httpx.Client) -> None:
    [named], [silent] = analyze(client, input=TEXT, attention="dense"), analyze(client, input=TEXT)
    assert named == silent
    assert "comparison" not in named["attention"]["encoder"]


def test_what_would_fill_the_memory_of_a_model_is_refused(client: httpx.Client) -> None:
    for asked in ({"kind": "performer", "features": 10**12}, {"kind": "linformer", "rank": 10**12}):
        document = problem(client.post("/v1/analyze", json={"input": TEXT, "attention": asked, "weights": "none"}), 413)
        assert "make it smaller" in document["detail"]

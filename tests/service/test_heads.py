"""Diagnostics of the heads as metrics: moving averages of what was analysed anyway, and of a share of the rest."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import torch
from fastapi import FastAPI
from scraping import Series, read_metrics
from serving import Task, busy_device, make_app, serving, until_waiting
from tools import promtool

import kqv
from service.batching.queue import Size
from service.observing.heads import MOST, RATE

pytestmark = pytest.mark.anyio
TEXT = [2, 5, 6, 7, 3]
OTHER = [2, 11, 13, 17, 19, 23, 3]


def entropy(model: kqv.Model, *texts: list[int]) -> torch.Tensor:
    """The moving average over some texts, [L, H]."""
    mean, *others = [analysis.attention["encoder"].diagnostics["entropy"] for analysis in model.analyze(list(texts))]
    for each in others:
        mean = mean + RATE * (each - mean)
    return mean


def shown(figures: Series, measure: str = "entropy") -> torch.Tensor:
    """The series of a measure, [L, H]."""
    name = f'kqv_head_{measure}{{group="encoder",head="%d",layer="%d",model="tiny"}}'
    return torch.tensor([[figures[name % (head, layer)] for head in range(5)] for layer in range(3)])


@asynccontextmanager
async def following(
    model: kqv.Model, chosen: str = "tiny/entropy", **settings: Any
) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    app = make_app(model, head_metrics=tuple(chosen.split(",")), **settings)
    async with serving(app) as client:
        yield app, client


async def test_series_of_every_head_are_there_from_the_start(model: kqv.Model) -> None:
    async with following(model, "tiny/entropy,tiny/first,other/entropy") as (_, client):
        figures = await read_metrics(client)
        assert shown(figures).isnan().all()
        assert shown(figures, "first").isnan().all()
        assert figures['kqv_head_sequences_total{model="tiny"}'] == 0
        assert sum(name.startswith("kqv_head_") for name in figures) == 2 * 15 + 1


async def test_averages_are_of_what_was_analysed(model: kqv.Model) -> None:
    async with following(model) as (_, client):
        await client.post("/v1/analyze", json={"input": TEXT})
        figures = await read_metrics(client)
        torch.testing.assert_close(shown(figures), entropy(model, TEXT))
        await client.post("/v1/analyze", json={"input": [OTHER, TEXT], "diagnostics": ["first", "entropy"], "weights": "none"})
        figures = await read_metrics(client)
        torch.testing.assert_close(shown(figures), entropy(model, TEXT, OTHER, TEXT))
        assert figures['kqv_head_sequences_total{model="tiny"}'] == 3


async def test_only_what_was_reported_moves(model: kqv.Model) -> None:
    async with following(model) as (_, client):
        await client.post("/v1/analyze", json={"input": TEXT, "layers": [2], "heads": [4, 1]})
        found = shown(await read_metrics(client))
        expected = torch.full((3, 5), torch.nan)
        expected[2, [1, 4]] = entropy(model, TEXT)[2, [1, 4]]
        torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize(
    "body",
    [
        {"per_query": True},
        {"diagnostics": "none"},
        {"diagnostics": ["first"]},
        {"attention": {"kind": "longformer", "window": 2}},
    ],
)
async def test_what_is_measured_otherwise_does_not_count(model: kqv.Model, body: dict[str, Any]) -> None:
    async with following(model) as (_, client):
        assert (await client.post("/v1/analyze", json={"input": TEXT} | body)).status_code == 200
        assert shown(await read_metrics(client)).isnan().all()


async def test_one_token_has_no_neighbour_and_changes_nothing(model: kqv.Model) -> None:
    async with following(model, "tiny/previous") as (_, client):
        await client.post("/v1/analyze", json={"input": TEXT})
        before = shown(await read_metrics(client), "previous")
        await client.post("/v1/analyze", json={"input": [5]})
        torch.testing.assert_close(shown(await read_metrics(client), "previous"), before)


async def test_share_of_the_rest_is_measured_beside(model: kqv.Model) -> None:
    async with following(model, head_metrics_share=1.0) as (_, client):
        answer = await client.post("/v1/analyze", json={"input": TEXT, "diagnostics": "none", "weights": "none", "layers": [0]})
        assert "attention" not in answer.json()["results"][0]
        figures = await until_seen(client, 1)
        torch.testing.assert_close(shown(figures), entropy(model, TEXT))


async def until_seen(client: httpx.AsyncClient, sequences: int) -> Series:
    for _ in range(500):
        figures = await read_metrics(client)
        if figures['kqv_head_sequences_total{model="tiny"}'] >= sequences:
            return figures
        await asyncio.sleep(0.005)
    raise AssertionError("it was never measured")


async def test_nobody_waits_for_the_metrics(model: kqv.Model) -> None:
    async with following(model, head_metrics_share=1.0) as (app, _):
        batcher = app.state.service.batcher
        follow = app.state.service.heads.follow
        job = kqv.Job(model.read(TEXT), kqv.Selection(diagnostics="none"))
        async with busy_device(batcher):
            waiting = batcher.submit(Task(lambda jobs: jobs), ["another request"], [Size(1)])
            await until_waiting(batcher, 1)
            follow(model, [job], [None], batcher)
            assert batcher.load.waiting == 1
        await asyncio.gather(*waiting)


async def test_large_request_is_looked_at_in_part(model: kqv.Model) -> None:
    async with following(model) as (_, client):
        await client.post("/v1/analyze", json={"input": [TEXT] * (MOST + 3)})
        assert (await read_metrics(client))['kqv_head_sequences_total{model="tiny"}'] == MOST


async def test_every_kind_of_attention_has_its_series(encoder_decoder: kqv.Model) -> None:
    app = make_app(encoder_decoder, head_metrics=(f"{encoder_decoder.id}/entropy",))
    async with serving(app) as client:
        await client.post("/v1/analyze", json={"input": {"text": "to be", "target": "or not"}})
        figures = {name: value for name, value in (await read_metrics(client)).items() if name.startswith("kqv_head_entropy")}
    for group in ("encoder", "decoder", "cross"):
        values = [value for name, value in figures.items() if f'group="{group}"' in name]
        assert values
        assert not any(math.isnan(value) for value in values)


@pytest.mark.parametrize("entry", ["entropy", "/entropy", "tiny/", "tiny/vibes", "tiny/similarity", "tiny:entropy"])
def test_what_is_no_measure_of_a_head_is_refused(model: kqv.Model, entry: str) -> None:
    with pytest.raises(kqv.InputError, match=r"KQV_HEAD_METRICS has .* not MODEL/MEASURE"):
        make_app(model, head_metrics=(entry,))


async def test_promtool_likes_the_heads(model: kqv.Model) -> None:
    async with following(model, "tiny/entropy,tiny/max_weight,tiny/top_k_mass,tiny/distance") as (_, client):
        await client.post("/v1/analyze", json={"input": TEXT})
        assert promtool("check", "metrics", given=(await client.get("/metrics")).content) == ""

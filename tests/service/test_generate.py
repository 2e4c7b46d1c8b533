"""POST /v1/generate writes what the engine writes, at once or token by token, alone or among others."""

import asyncio
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import torch
from problems import check_invalid, problem
from serving import busy_device, listening, make_app, serving, until_waiting, wait_until
from torch.testing import assert_close

import kqv
import kqv.generate
from service.wire.answers import AnalyzeAnswer, GenerateAnswer, TokenEvent
from service.work.streaming import Pieces, certain_length

pytestmark = pytest.mark.anyio
END = 256
PROMPTS = ["a cat", [5, 11, 7, 3, 29, 17], "the dog ran to the sun"]
EVERYTHING = {"weights": "full", "diagnostics": "all", "per_query": True}


@pytest.fixture(params=["decoder", "encoder_decoder"])
def writer(request: pytest.FixtureRequest) -> kqv.Model:
    """A model that writes, of either kind."""
    model: kqv.Model = request.getfixturevalue(request.param)
    return model


def checked(response: httpx.Response) -> dict[str, Any]:
    """The answer, which the document of the API describes."""
    assert response.status_code == 200, response.text
    GenerateAnswer.model_validate_json(response.content, strict=True)
    answer: dict[str, Any] = response.json()
    return answer


def events_of(body: str) -> list[tuple[str, Any]]:
    """The events of a stream: name and data."""
    parts = [event.split("\n") for event in body.removesuffix("\n\n").split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in parts]


def check_attention(found: dict[str, Any], expected: dict[Any, kqv.GroupAnalysis]) -> None:
    assert found.keys() == expected.keys()
    for group, analysis in expected.items():
        assert_close(torch.tensor(found[group]["weights"]), analysis.weights, rtol=0, atol=2e-5)
        for name, figures in analysis.diagnostics.items():
            assert_close(
                torch.from_numpy(np.array(found[group]["diagnostics"][name], np.float32)),
                figures.float(),
                rtol=0,
                atol=1e-4,
                equal_nan=True,
            )


async def test_answer_is_what_the_engine_writes(writer: kqv.Model) -> None:
    async with serving(make_app(writer)) as client:
        answer = checked(await client.post("/v1/generate", json={"input": PROMPTS, "max_new_tokens": 9} | EVERYTHING))
    expected = writer.generate(PROMPTS, max_new_tokens=9, selection=kqv.Selection(**EVERYTHING, outputs=()))
    for found, generated in zip(answer["results"], expected, strict=True):
        assert found["token_ids"] == list(generated.token_ids)
        assert found["tokens"] == list(generated.tokens)
        assert (found["text"], found["finish_reason"]) == (generated.text, generated.finish_reason)
        check_attention(found["attention"], generated.attention)
    new_tokens = sum(len(generated.token_ids) for generated in expected)
    prompts = sum(len(writer.read(prompt)) for prompt in PROMPTS)
    starts = 3 if writer.config.architecture == "encoder-decoder" else 0
    assert answer["usage"] == {"sequences": 3, "tokens": prompts + starts + new_tokens, "new_tokens": new_tokens}
    assert answer["timing"]["batch_sequences"] == 3


async def test_nothing_is_shown_that_was_not_asked_for(writer: kqv.Model) -> None:
    async with serving(make_app(writer)) as client:
        answer = checked(await client.post("/v1/generate", json={"input": "a", "max_new_tokens": 2}))
    assert answer["results"][0].keys() == {"text", "token_ids", "tokens", "finish_reason"}


async def test_stream_says_the_same_token_by_token(writer: kqv.Model) -> None:
    body = {"input": PROMPTS, "max_new_tokens": 9} | EVERYTHING
    async with serving(make_app(writer)) as client:
        whole = checked(await client.post("/v1/generate", json=body))
        response = await client.post("/v1/generate", json=body | {"stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *tokens, (last, done) = events_of(response.text)
    assert last == "done"
    assert done["results"] == whole["results"]
    assert done["usage"] == whole["usage"]
    assert {name for name, _ in tokens} == {"token"}
    for _, token in tokens:
        TokenEvent.model_validate(token)
    for index, result in enumerate(whole["results"]):
        own = [token for _, token in tokens if token["index"] == index]
        assert [token["token_id"] for token in own] == result["token_ids"]
        assert [token["token"] for token in own] == result["tokens"]
        assert "".join(token["text"] for token in own) == result["text"]
        rows = [len(token["attention"]["decoder"]["weights"][0][0]) for token in own]
        assert sum(rows) == len(result["attention"]["decoder"]["weights"][0][0])
        assert rows[1:] == [1] * (len(own) - 1)


def test_pieces_hold_back_what_may_yet_change() -> None:
    pieces = Pieces(["or not"])
    grown = ["to be", "to be \ufffd", "to be é", "to be é or", "to be é or\ufffd", "to be é orb", "to be é orb or"]
    assert [pieces.take(text, is_whole=False) for text in grown] == ["to be", " ", "é", " ", "", "orb", " "]
    assert pieces.take("to be é orb or", is_whole=True) == "or"
    assert certain_length("to be or", ["or not"]) == 6
    assert certain_length("abab", ["ababc", "x"]) == 0
    assert Pieces(["x"]).take("half \ufffd", is_whole=True) == "half \ufffd"


def test_stop_text_ends_the_sequence_and_is_never_sent(decoder: kqv.Model, decoder_client: httpx.Client) -> None:
    [free] = decoder.generate(["a cat"], max_new_tokens=20)
    stop = free.text[3:5]
    body = {"input": "a cat", "max_new_tokens": 20, "stop": stop}
    [result] = checked(decoder_client.post("/v1/generate", json=body))["results"]
    assert (result["text"], result["finish_reason"]) == (free.text[: free.text.index(stop)], "stop")
    events = events_of(decoder_client.post("/v1/generate", json=body | {"stream": True}).text)
    assert "".join(data["text"] for name, data in events if name == "token") == result["text"]


def test_seed_repeats_the_text(decoder: kqv.Model, decoder_client: httpx.Client) -> None:
    chance = {"temperature": 1.5, "top_p": 0.9, "top_k": 40, "seed": 11, "max_new_tokens": 12}
    [expected] = decoder.generate(["a cat"], **chance)
    for body in (chance, chance | {"top_k": 40}):
        [result] = checked(decoder_client.post("/v1/generate", json={"input": "a cat"} | body))["results"]
        assert result["token_ids"] == list(expected.token_ids)


async def test_requests_share_their_steps_and_notice_nothing_of_it(writer: kqv.Model) -> None:
    bodies = [{"input": prompt, "max_new_tokens": 6 + size} for size, prompt in enumerate(PROMPTS)]
    app = make_app(writer)
    batcher = app.state.service.batcher
    async with serving(app) as client:
        alone = [checked(await client.post("/v1/generate", json=body)) for body in bodies]
        async with busy_device(batcher) as release:
            tasks = [asyncio.create_task(client.post("/v1/generate", json=body)) for body in bodies]
            await until_waiting(batcher, 3)
            tasks.append(asyncio.create_task(client.post("/v1/analyze", json={"input": [5, 6]})))
            await until_waiting(batcher, 4)
            release()
            *together, analyzed = await asyncio.gather(*tasks)
    assert analyzed.status_code == 200
    for before, response in zip(alone, together, strict=True):
        after = checked(response)
        assert before["timing"]["batch_sequences"] == 1
        assert after["timing"]["batch_sequences"] >= 3  # an encoder–decoder writes its target for the analysis too
        assert after["results"] == before["results"]


async def test_what_was_let_in_is_never_refused_midway(decoder: kqv.Model) -> None:
    app = make_app(decoder, max_waiting_sequences=2)
    batcher = app.state.service.batcher
    async with serving(app) as client:
        async with busy_device(batcher) as release:
            kept = asyncio.create_task(client.post("/v1/generate", json={"input": [[5], [6]], "max_new_tokens": 5}))
            await until_waiting(batcher, 2)
            refused = await client.post("/v1/generate", json={"input": [7], "max_new_tokens": 5, "stream": True})
            assert problem(refused, 429)["title"] == "Overloaded"
            release()
        checked(await kept)


@pytest.mark.parametrize("stream", [False, True])
async def test_poisoned_step_fails_its_own_generation_alone(
    decoder: kqv.Model, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """It fails after the others' caches have grown."""
    take = kqv.generate.take

    def poisoned(generation: kqv.Generation, *rest: Any) -> None:
        take(generation, *rest)
        if generation.read[0] == 13 and len(generation.new_ids) == 3:
            raise RuntimeError("an assertion on the device")

    bodies = [{"input": ids, "max_new_tokens": 7, "temperature": 1.0, "seed": 3, "weights": "full"} for ids in ([5, 6], [13], [7])]
    app = make_app(decoder)
    async with serving(app) as client:
        alone = [checked(await client.post("/v1/generate", json=body)) for body in bodies]
        monkeypatch.setattr("kqv.generate.take", poisoned)
        async with busy_device(app.state.service.batcher) as release:
            bodies[1]["stream"] = stream
            tasks = [asyncio.create_task(client.post("/v1/generate", json=body)) for body in bodies]
            await until_waiting(app.state.service.batcher, 3)
            release()
            first, failed, last = await asyncio.gather(*tasks)
    for before, response in ((alone[0], first), (alone[2], last)):
        [expected], [found] = before["results"], checked(response)["results"]
        assert found["token_ids"] == expected["token_ids"]
        weights = [torch.tensor(each["attention"]["decoder"]["weights"]) for each in (found, expected)]
        assert_close(*weights, rtol=0, atol=2e-5)
    if stream:
        assert failed.status_code == 200
        *tokens, (name, document) = events_of(failed.text)
        assert (len(tokens), name, document["status"]) == (2, "error", 500)
        assert document["request_id"] == failed.headers["x-request-id"]
        assert "device" not in failed.text
    else:
        assert "device" not in problem(failed, 500)["detail"]


async def test_deadline_stops_the_work_between_two_steps(decoder: kqv.Model, steps: list[int]) -> None:
    body, deadline = {"input": [5], "max_new_tokens": 39}, {"x-request-timeout-ms": "60"}
    async with serving(make_app(decoder)) as client:
        assert problem(await client.post("/v1/generate", json=body, headers=deadline), 504)["title"] == "Deadline exceeded"
        await client.post("/v1/analyze", json={"input": [5]})
        assert 1 <= len(steps) < 20
        steps.clear()
        response = await client.post("/v1/generate", json=body | {"stream": True}, headers=deadline)
        *tokens, (name, document) = events_of(response.text)
        assert (name, document["status"]) == ("error", 504)
        assert 1 <= len(tokens) < 20


@pytest.mark.parametrize("stream", ["true", "false"])
def test_client_that_hangs_up_stops_the_work(decoder: kqv.Model, steps: list[int], stream: str) -> None:
    with listening(make_app(decoder)) as url, httpx.Client(base_url=url) as client:
        body = f'{{"input": [[5], [6]], "max_new_tokens": 39, "stream": {stream}}}'.encode()
        head = f"POST /v1/generate HTTP/1.1\r\nHost: kqv\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", urlsplit(url).port), timeout=5) as connection:
            connection.sendall(head.encode() + body)
            wait_until(lambda: len(steps) >= 3)
        response = client.post("/v1/generate", json={"input": [7], "max_new_tokens": 30})
        assert checked(response)["usage"]["new_tokens"] <= 30
        assert sum(size == 2 for size in steps) + sum(size == 3 for size in steps) < 20


BAD: dict[str, tuple[dict[str, Any], list[str | int], str]] = {
    "temperature negative": ({"temperature": -1}, ["temperature"], "greater than or equal to 0"),
    "top_p 0": ({"top_p": 0}, ["top_p"], "greater than 0"),
    "top_p over 1": ({"top_p": 1.1}, ["top_p"], "less than or equal to 1"),
    "top_k negative": ({"top_k": -1}, ["top_k"], "greater than or equal to 0"),
    "no new tokens": ({"max_new_tokens": 0}, ["max_new_tokens"], "greater than or equal to 1"),
    "past the context": ({"max_new_tokens": 41}, ["max_new_tokens"], "exceed the model's context of 41; ask for at most 36"),
    "prompt past the context": ({"input": [5] * 42}, ["input"], "1 more than the model's context of 41"),
    "seed negative": ({"seed": -1}, ["seed"], "greater than or equal to 0"),
    "empty stop": ({"stop": ""}, ["stop"], "none of them empty"),
    "too many stops": ({"stop": list("abcdefghijklmnopq")}, ["stop"], "at most 16 texts"),
    "stop too long": ({"stop": ["a", "b" * 257]}, ["stop", 1], "at most 256 characters"),
    "stop of no form": ({"stop": 5}, ["stop"], "this is a text or a list of texts"),
    "stream of no form": ({"stream": 1}, ["stream"], "boolean"),
    "pooled weights": ({"weights": "pooled"}, ["weights"], "'none', 'top' or 'full'"),
    "similarity": ({"diagnostics": ["similarity"]}, ["diagnostics"], "need whole maps"),
    "unknown layer": ({"layers": [3]}, ["layers", 0], "the model has 3"),
    "unknown head": ({"heads": [0, 5]}, ["heads", 1], "the model has 5"),
    "unknown field": ({"n": 2}, ["n"], "no such field"),
    "empty text": ({"input": ["a", ""]}, ["input", 1], "text is empty"),
    "embeddings": ({"input": {"embeddings": [[0.5] * 35]}}, ["input"], "from text or tokens, not from embeddings"),
    "one of embeddings": ({"input": ["a", {"embeddings": [[0.5] * 35]}]}, ["input", 1], "from text or tokens, not from embeddings"),
    "target": ({"input": {"text": "a", "target": "b"}}, ["input", "target"], "a target is for encoder–decoders"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", BAD)
def test_generate_names_the_field(decoder_client: httpx.Client, case: str, stream: bool) -> None:
    body, loc, complaint = BAD[case]
    given = {"input": "a cat", "max_new_tokens": 2, "stream": stream}
    check_invalid(decoder_client.post("/v1/generate", json=given | body), loc, complaint)


def test_temperature_that_is_no_number_is_named(decoder_client: httpx.Client) -> None:
    headers = {"content-type": "application/json"}
    response = decoder_client.post("/v1/generate", content='{"input": "a", "temperature": NaN}', headers=headers)
    check_invalid(response, ["temperature"], "finite number")


def test_an_encoder_writes_nothing(client: httpx.Client) -> None:
    check_invalid(client.post("/v1/generate", json={"input": "the cat"}), ["model"], "no decoder with a language-model head")


async def test_answer_too_large_is_refused_before_the_first_token(decoder: kqv.Model) -> None:
    body = {"input": [5] * 30, "max_new_tokens": 11, "weights": "full", "stream": True}
    async with serving(make_app(decoder, max_answer_bytes=2 * 14 * 3 * 5 * 41 * 41)) as client:
        assert (await client.post("/v1/generate", json=body)).status_code == 200
    async with serving(make_app(decoder, max_answer_bytes=2 * 14 * 3 * 5 * 41 * 41 - 1)) as client:
        assert 'ask for weights "top" or "none"' in problem(await client.post("/v1/generate", json=body), 413)["detail"]
        assert (await client.post("/v1/generate", json=body | {"stream": False})).status_code == 200


async def test_target_is_what_the_decoder_reads(encoder_decoder: kqv.Model) -> None:
    objects = [{"text": "a cat", "target": "un chat"}, {"tokens": [5, 6, 7], "target": [END, 8]}]
    async with serving(make_app(encoder_decoder)) as client:
        response = await client.post("/v1/analyze", json={"input": objects})
    AnalyzeAnswer.model_validate_json(response.content, strict=True)
    expected = encoder_decoder.analyze([kqv.Input(**each) for each in objects])
    for found, analysis in zip(response.json()["results"], expected, strict=True):
        assert found["target_token_ids"] == list(analysis.target_token_ids)
        assert found["target_tokens"] == list(analysis.target_tokens)
        assert found["attention"].keys() == {"encoder", "decoder", "cross"}
        for group, attention in analysis.attention.items():
            assert_close(torch.tensor(found["attention"][group]["weights"]), attention.weights)
    assert response.json()["usage"]["tokens"] == (5 + 8) + (3 + 2)


async def test_without_a_target_the_decoder_reads_what_the_model_writes(encoder_decoder: kqv.Model) -> None:
    given = ["a cat", {"text": "a dog", "target": "un chien"}]
    async with serving(make_app(encoder_decoder)) as client:
        response = await client.post("/v1/analyze", json={"input": given, "weights": "none", "queries": [0, 5], "keys": [0, 5]})
        assert response.status_code == 200, response.text
        bad = await client.post("/v1/analyze", json={"input": "a cat", "layers": [5]})
        check_invalid(bad, ["layers", 0], "the model has 5")
    expected = encoder_decoder.analyze(["a cat", kqv.Input(text="a dog", target="un chien")], weights="none", diagnostics="none")
    for found, analysis in zip(response.json()["results"], expected, strict=True):
        assert found["target_token_ids"] == list(analysis.target_token_ids)
        assert_close(torch.tensor(found["hidden"]), analysis.hidden)

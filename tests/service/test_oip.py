"""Open Inference Protocol v2, as Triton's own clients use it, both of them."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from serving import busy_device, keep_busy, listening, make_app, serving
from torch.testing import assert_close
from tritonclient.utils import InferenceServerException

import kqv
from kqv.diagnostics import DEFAULT_DIAGNOSTICS

TEXTS = ["the cat sat on the mat .", "a dog"]
WEIGHTS = "attention.encoder.weights"


@pytest.fixture(scope="module")
def address(client: httpx.Client) -> str:
    return f"{client.base_url.host}:{client.base_url.port}"


@pytest.fixture
def session(address: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address) as session:
        yield session


def tensor(name: str, array: np.ndarray[Any, Any], datatype: str, *, binary: bool = True) -> triton.InferInput:
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array, binary_data=binary)


def text(*texts: str, binary: bool = True) -> triton.InferInput:
    return tensor("text", np.array(texts, dtype=object), "BYTES", binary=binary)


def wanted(*names: str, binary: bool = True) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def test_server_says_what_it_is(session: triton.InferenceServerClient) -> None:
    assert session.is_server_live()
    assert session.is_server_ready()
    assert session.is_model_ready("tiny")
    assert session.is_model_ready("tiny", "1")
    assert not session.is_model_ready("tiny", "2")
    assert not session.is_model_ready("huge")
    metadata = session.get_server_metadata()
    assert metadata["name"] == "kqv"
    assert {"binary_tensor_data", "model_repository"} <= set(metadata["extensions"])
    assert session.get_model_repository_index() == [{"name": "tiny", "version": "1", "state": "READY", "reason": ""}]


def test_model_says_what_it_takes_and_gives(session: triton.InferenceServerClient) -> None:
    metadata = session.get_model_metadata("tiny", "1")
    assert metadata == session.get_model_metadata("tiny")
    assert (metadata["name"], metadata["versions"]) == ("tiny", ["1"])
    inputs = {each["name"]: (each["datatype"], each["shape"]) for each in metadata["inputs"]}
    assert inputs == {
        "text": ("BYTES", [-1]),
        "pair": ("BYTES", [-1]),
        "input_ids": ("INT64", [-1, -1]),
        "embeddings": ("FP32", [-1, -1, 35]),
        "attention_mask": ("INT64", [-1, -1]),
    }
    outputs = {each["name"]: (each["datatype"], each["shape"]) for each in metadata["outputs"]}
    assert outputs["pooled"] == ("FP32", [-1, 35])
    assert outputs[WEIGHTS] == ("FP32", [-1] * 5)
    assert "logits" not in outputs
    config = session.get_model_config("tiny")
    assert (config["name"], config["max_batch_size"]) == ("tiny", 0)
    assert {"name": "text", "data_type": "TYPE_STRING", "dims": [-1], "optional": True} in config["input"]
    assert {each["name"] for each in config["output"]} == set(outputs)


@pytest.mark.parametrize("binary", [True, False])
def test_outputs_are_what_the_engine_finds(session: triton.InferenceServerClient, model: kqv.Model, binary: bool) -> None:
    names = ["pooled", "hidden", WEIGHTS, "attention.encoder.q", "attention.encoder.diagnostics.entropy"]
    result = session.infer("tiny", [text(TEXTS[0], binary=binary)], outputs=wanted(*names, binary=binary))
    [expected] = model.analyze([TEXTS[0]], outputs=("pooled", "hidden", "q"))
    group = expected.attention["encoder"]
    tensors = [expected.pooled, expected.hidden, group.weights, group.q, group.diagnostics["entropy"]]
    for name, found in zip(names, tensors, strict=True):
        assert_close(torch.tensor(result.as_numpy(name)), found[None], msg=name)
    assert [output["name"] for output in result.get_response()["outputs"]] == names


def test_every_output_has_the_shape_that_is_announced(session: triton.InferenceServerClient) -> None:
    announced = {each["name"]: each for each in session.get_model_metadata("tiny")["outputs"]}
    result = session.infer("tiny", [text(*TEXTS)], outputs=wanted(*announced))
    for name, output in announced.items():
        array = result.as_numpy(name)
        assert len(array.shape) == len(output["shape"]), name
        assert all(size in (-1, actual) for size, actual in zip(output["shape"], array.shape, strict=True)), name
        assert len(array) == 2


def test_shorter_sequences_are_filled_up(session: triton.InferenceServerClient, model: kqv.Model) -> None:
    names = ["lengths", "token_ids", "tokens", "hidden", WEIGHTS, "attention.encoder.scaled_scores"]
    result = session.infer("tiny", [text(*TEXTS)], outputs=wanted(*names))
    short = model.analyze([TEXTS[1]], outputs=("hidden", "scaled_scores"))[0]
    assert result.as_numpy("lengths").tolist() == [9, 4]
    assert result.as_numpy("token_ids")[1].tolist() == [*short.token_ids, -1, -1, -1, -1, -1]
    assert result.as_numpy("tokens")[1].tolist() == [*(token.encode() for token in short.tokens), b"", b"", b"", b"", b""]
    assert_close(torch.tensor(result.as_numpy("hidden")[1, :4]), short.hidden)
    assert not result.as_numpy("hidden")[1, 4:].any()
    assert_close(torch.tensor(result.as_numpy(WEIGHTS)[1, :, :, :4, :4]), short.attention["encoder"].weights)
    assert not result.as_numpy(WEIGHTS)[1, :, :, 4:].any()
    scores = result.as_numpy("attention.encoder.scaled_scores")[1]
    assert_close(torch.tensor(scores[:, :, :4, :4]), short.attention["encoder"].scaled_scores)
    assert np.isneginf(scores[:, :, :, 4:]).all()


def test_ids_and_embeddings_leave_their_padding_out(session: triton.InferenceServerClient, model: kqv.Model) -> None:
    ids = np.array([[0, 2, 5, 6, 3], [2, 7, 3, 0, 0]])
    mask = np.array([[0, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    expected = model.analyze([[2, 5, 6, 3], [2, 7, 3]], outputs=("pooled",))
    for datatype, masked in (("INT64", mask), ("BOOL", mask.astype(bool)), ("INT32", mask.astype(np.int32))):
        given = [tensor("input_ids", ids, "INT64"), tensor("attention_mask", masked, datatype)]
        result = session.infer("tiny", given, outputs=wanted("pooled", "lengths"))
        assert_close(torch.tensor(result.as_numpy("pooled")), torch.stack([each.pooled for each in expected]))
        assert result.as_numpy("lengths").tolist() == [4, 3]
    vectors = np.random.default_rng(0).standard_normal((2, 5, 35)).astype(np.float32)
    given = [tensor("embeddings", vectors, "FP32"), tensor("attention_mask", mask, "INT64")]
    pooled = session.infer("tiny", given, outputs=wanted("pooled")).as_numpy("pooled")
    expected = model.analyze([torch.tensor(vectors[0, 1:]), torch.tensor(vectors[1, :3])], outputs=("pooled",))
    assert_close(torch.tensor(pooled), torch.stack([each.pooled for each in expected]))


def test_pairs_stand_beside_texts(session: triton.InferenceServerClient, model: kqv.Model) -> None:
    given = [text("the cat"), tensor("pair", np.array(["a dog"], dtype=object), "BYTES")]
    [expected] = model.analyze([kqv.Input(text="the cat", pair="a dog")], outputs=("pooled",))
    assert_close(torch.tensor(session.infer("tiny", given, outputs=wanted("pooled")).as_numpy("pooled")[0]), expected.pooled)


def test_parameters_choose_what_is_reported(session: triton.InferenceServerClient, model: kqv.Model) -> None:
    parameters = {"layers": "-1,0", "heads": "3", "queries": "1,4", "keys": "2,9"}
    result = session.infer("tiny", [text(TEXTS[0])], outputs=wanted(WEIGHTS), parameters=parameters)
    [expected] = model.analyze([TEXTS[0]], layers=(-1, 0), heads=(3,), queries=(1, 4), keys=(2, 9))
    assert_close(torch.tensor(result.as_numpy(WEIGHTS)[0]), expected.attention["encoder"].weights)
    result = session.infer("tiny", [text("cat " * 60)], outputs=wanted("lengths"), parameters={"truncate": "right"})
    assert result.as_numpy("lengths").tolist() == [41]


def test_without_outputs_there_is_what_analyze_gives(session: triton.InferenceServerClient) -> None:
    result = session.infer("tiny", [text("the cat")])
    names = {output["name"] for output in result.get_response()["outputs"]}
    measures = {f"attention.encoder.diagnostics.{name}" for name in DEFAULT_DIAGNOSTICS}
    assert names == {"lengths", "token_ids", "hidden", WEIGHTS} | measures
    assert all("binary_data_size" in output["parameters"] for output in result.get_response()["outputs"])


def test_binary_says_what_json_has_no_words_for(session: triton.InferenceServerClient) -> None:
    name = "attention.encoder.diagnostics.duplicate"  # undefined: no token is there twice
    exact = session.infer("tiny", [text("cat")], outputs=wanted(name)).as_numpy(name)
    assert np.isnan(exact).all()
    spelled = session.infer("tiny", [text("cat")], outputs=wanted(name, binary=False))
    assert spelled.get_output(name)["data"] == [None] * 15
    assert np.isnan(spelled.as_numpy(name)).all()


def test_binary_and_json_outputs_stand_beside_each_other(session: triton.InferenceServerClient, model: kqv.Model) -> None:
    outputs = [*wanted("pooled"), *wanted("lengths", "tokens", binary=False), *wanted("hidden", "token_ids")]
    result = session.infer("tiny", [text(TEXTS[1], binary=False)], outputs=outputs, request_id="seven")
    [expected] = model.analyze([TEXTS[1]], outputs=("pooled", "hidden"))
    assert result.get_response()["id"] == "seven"
    assert result.as_numpy("lengths").tolist() == [4]
    assert result.as_numpy("tokens")[0].tolist() == list(expected.tokens)
    assert_close(torch.tensor(result.as_numpy("pooled")[0]), expected.pooled)
    assert_close(torch.tensor(result.as_numpy("hidden")[0]), expected.hidden)
    assert result.as_numpy("token_ids")[0].tolist() == list(expected.token_ids)


@pytest.mark.parametrize("compression", ["gzip", "deflate", None])
def test_requests_may_be_compressed(session: triton.InferenceServerClient, compression: str | None) -> None:
    ids = np.array([[2, 5, 6, 3]])
    result = session.infer(
        "tiny",
        [tensor("input_ids", ids, "INT64")],
        outputs=wanted("token_ids"),
        request_compression_algorithm=compression,
        response_compression_algorithm="gzip",
    )
    assert result.as_numpy("token_ids").tolist() == ids.tolist()


def test_async_requests_of_the_sync_client(session: triton.InferenceServerClient) -> None:
    pending = [session.async_infer("tiny", [text(each)], outputs=wanted("lengths")) for each in TEXTS]
    assert [each.get_result().as_numpy("lengths").tolist() for each in pending] == [[9], [4]]


@pytest.mark.anyio
async def test_the_async_client_works_too(address: str, model: kqv.Model) -> None:
    async with triton_aio.InferenceServerClient(address) as session:
        assert await session.is_server_ready()
        assert (await session.get_model_metadata("tiny"))["name"] == "tiny"
        results = await asyncio.gather(
            *(session.infer("tiny", [text(each)], outputs=wanted("pooled"), request_id=each) for each in TEXTS),
            session.infer("tiny", [text(TEXTS[0], binary=False)], outputs=wanted("pooled", binary=False)),
            session.infer("tiny", [text(TEXTS[0])], outputs=wanted("pooled"), request_compression_algorithm="deflate"),
        )
        [first, second] = model.analyze(TEXTS, outputs=("pooled",))
        for result, expected in zip(results, [first, second, first, first], strict=True):
            assert_close(torch.tensor(result.as_numpy("pooled")[0]), expected.pooled)
        assert [result.get_response().get("id") for result in results] == [*TEXTS, None, None]
        with pytest.raises(InferenceServerException, match="there is no model 'huge' here; there are: tiny"):
            await session.infer("huge", [text("a")])


def test_what_was_asked_is_counted(model: kqv.Model) -> None:
    with listening(make_app(model)) as url, triton.InferenceServerClient(url.removeprefix("http://")) as session:
        [before] = session.get_inference_statistics()["model_stats"]
        assert (before["name"], before["inference_count"], before["last_inference"]) == ("tiny", 0, 0)
        session.infer("tiny", [text(*TEXTS)])
        session.infer("tiny", [text("a")])
        with pytest.raises(InferenceServerException):
            session.infer("tiny", [text("")])
        [after] = session.get_inference_statistics("tiny", "1")["model_stats"]
        assert (after["inference_count"], after["execution_count"]) == (3, 2)
        stats = after["inference_stats"]
        assert (stats["success"]["count"], stats["fail"]["count"]) == (2, 1)
        assert stats["success"]["ns"] > stats["compute_infer"]["ns"] > 0
        with pytest.raises(InferenceServerException, match="no model 'huge'"):
            session.get_inference_statistics("huge")
        assert len(session.get_inference_statistics()["model_stats"]) == 1


def test_models_stay_as_they_are(session: triton.InferenceServerClient) -> None:
    for change in (session.load_model, session.unload_model):
        with pytest.raises(InferenceServerException, match="when the server starts") as raised:
            change("tiny")
        assert raised.value.status() == "403"


def test_no_memory_is_shared(session: triton.InferenceServerClient) -> None:
    attempts = [
        lambda: session.get_system_shared_memory_status(),
        lambda: session.get_system_shared_memory_status("a"),
        lambda: session.register_system_shared_memory("a", "/etc/passwd", 16),
        lambda: session.unregister_system_shared_memory(),
        lambda: session.get_cuda_shared_memory_status(),
        lambda: session.register_cuda_shared_memory("a", b"handle", 0, 16),
        lambda: session.unregister_cuda_shared_memory("a"),
    ]
    for attempt in attempts:
        with pytest.raises(InferenceServerException, match="no shared memory") as raised:
            attempt()
        assert raised.value.status() == "501"


@pytest.mark.anyio
async def test_timeout_is_in_microseconds(model: kqv.Model) -> None:
    app = make_app(model)
    body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}], "parameters": {"timeout": 20_000}}
    async with serving(app) as client, busy_device(app.state.service.batcher):
        late = await client.post("/v2/models/tiny/infer", json=body)
        assert (late.status_code, late.json()["error"]) == (
            504,
            "no answer within 20 ms; ask for less, or set parameters.timeout, in microseconds, higher",
        )
        body["parameters"] = {"timeout": 60_000_000}  # the header is sooner
        late = await client.post("/v2/models/tiny/infer", json=body, headers={"x-request-timeout-ms": "15"})
        assert late.json()["error"] == "no answer within 15 ms; ask for less, or set X-Request-Timeout-Ms higher"
    assert app.state.service.answers.held_bytes == 0, "the answers that were given up are held for ever"


def test_deadlines_of_the_client_are_kept(model: kqv.Model) -> None:
    app = make_app(model)
    with listening(app) as url, triton.InferenceServerClient(url.removeprefix("http://"), network_timeout=0.5) as session:
        gate = keep_busy(app)
        with pytest.raises(InferenceServerException, match="no answer within 20 ms") as raised:
            session.infer("tiny", [text("a")], timeout=20_000)
        assert raised.value.status() == "504"
        with pytest.raises(TimeoutError):
            session.infer("tiny", [text("a")])
        gate.open()
        assert session.infer("tiny", [text("a")], outputs=wanted("lengths"), timeout=10_000_000).as_numpy("lengths").tolist() == [3]


def test_server_that_loads_or_drains_is_not_ready(model: kqv.Model) -> None:
    app = make_app(model)
    with listening(app) as url, triton.InferenceServerClient(url.removeprefix("http://")) as session:
        app.state.service.draining = True
        assert session.is_server_live()
        assert not session.is_server_ready()
        assert not session.is_model_ready("tiny")
        assert session.infer("tiny", [text("a")], outputs=wanted("lengths")).as_numpy("lengths").tolist() == [3]


def test_encoder_decoders_have_targets(encoder_decoder: kqv.Model) -> None:
    names = ["target_tokens", "target_lengths", "attention.cross.weights", "attention.decoder.weights", "hidden"]
    with listening(make_app(encoder_decoder)) as url, triton.InferenceServerClient(url.removeprefix("http://")) as session:
        target = tensor("target", np.array(["dog"], dtype=object), "BYTES")
        for given, expected in (
            ([text("cats"), target], encoder_decoder.analyze([kqv.Input(text="cats", target="dog")])[0]),
            ([text("cats")], encoder_decoder.analyze(["cats"])[0]),
        ):
            result = session.infer("t5", given, outputs=wanted(*names))
            assert result.as_numpy("target_lengths").tolist() == [len(expected.target_token_ids)]
            assert_close(torch.tensor(result.as_numpy("hidden")[0]), expected.hidden)
            assert_close(torch.tensor(result.as_numpy("attention.cross.weights")[0]), expected.attention["cross"].weights)

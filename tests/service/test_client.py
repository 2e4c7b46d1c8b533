"""The Python client against the real server: the engine's own numbers, both clients alike, and every way that a call can fail."""

import functools
import inspect
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, get_args

import anyio
import numpy as np
import pytest
import torch
from serving import keep_busy, listening, make_app, wait_until

import kqv
from service import errors
from service.app import create_app
from service.client import AsyncClient, Client, calls, clients, retrying
from service.client import errors as told
from service.client import results as given
from service.http import embed_tokens
from service.models import Models
from service.settings import Settings
from service.wire import answers, requests

Ask = Callable[..., Any]
KEY = "correct-horse-battery-staple"
SECRET = "0123456789abcdef" * 2
EVERYTHING: dict[str, Any] = {
    "outputs": ["hidden", "pooled", "q", "k", "v", "scaled_scores", "head_outputs"],
    "diagnostics": "all",
    "per_query": True,
}


def call_both(url: str, kind: str, method: str, *args: Any, options: dict[str, Any] | None = None, **named: Any) -> Any:
    """One call by a client of that kind; of a stream, its tokens and its answer."""
    if kind == "sync":
        with Client(url, **(options or {})) as client:
            result = getattr(client, method)(*args, **named)
            return (list(result), result.answer) if method == "stream" else result

    async def ask() -> Any:
        async with AsyncClient(url, **(options or {})) as client:
            result = getattr(client, method)(*args, **named)
            return ([token async for token in result], result.answer) if method == "stream" else await result

    return anyio.run(ask)


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def url(model: kqv.Model, decoder: kqv.Model) -> Iterator[str]:
    """A server of both."""
    models = Models(lambda: [model, decoder])
    models.load()
    with listening(create_app(Settings(workers=1, threads=1, max_body_bytes=100_000, max_answer_bytes=300_000), models)) as url:
        yield url


@pytest.fixture
def ask(url: str, kind: str) -> Ask:
    return functools.partial(call_both, url, kind)


def same(one: object, other: object) -> None:
    """The same values in the same fields, bit by bit, whether arrays or tensors."""
    if isinstance(one, torch.Tensor | np.ndarray):
        one, other = np.asarray(one), np.asarray(other)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    elif isinstance(one, dict):
        assert isinstance(other, dict) and one.keys() == other.keys()
        for name in one:
            same(one[name], other[name])
    elif isinstance(one, tuple | list):
        assert isinstance(other, tuple | list) and len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            same(left, right)
    elif hasattr(one, "__dataclass_fields__"):
        same(vars(one), vars(other))
    else:
        assert one == other


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the server's worker has, so that sums are added up in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("wire", ["safetensors", "json"])
@pytest.mark.parametrize("weights", ["full", "top", "pooled", "none"])
@pytest.mark.usefixtures("one_thread")
def test_an_analysis_is_the_engines_own_bit_by_bit(ask: Ask, model: kqv.Model, wire: str, weights: str) -> None:
    expected = model.analyze(["the cat sat"], weights=weights, top_k=3, pool=2, **EVERYTHING)
    answer = ask("analyze", "the cat sat", weights=weights, top_k=3, pool=2, **EVERYTHING, options={"wire": wire})
    assert (answer.model, answer.usage.sequences) == (model.id, 1)
    assert answer.timing.batch_sequences == 1
    same(expected, answer.results)


@pytest.mark.parametrize("wire", ["safetensors", "json"])
@pytest.mark.usefixtures("one_thread")
def test_sequences_of_all_kinds_are_answered_in_order(ask: Ask, model: kqv.Model, wire: str) -> None:
    vectors = np.random.default_rng(0).standard_normal((7, 35)).astype(np.float32)
    ids = (2, 3, 5, 7)
    answer = ask(
        "analyze",
        ["the cat", np.array(ids), {"embeddings": vectors}, {"tokens": ids}, {"embeddings": torch.from_numpy(vectors)}],
        model=model.id,
        options={"wire": wire},
    )
    inputs = ["the cat", list(ids), kqv.Input(embeddings=torch.from_numpy(vectors))]
    same(model.analyze(inputs), answer[:3])
    same(answer[1], answer[3])
    same(answer[2], answer[4])
    assert answer[2].tokens is None and len(answer) == 5 and [each.truncated for each in answer] == [0] * 5


@pytest.mark.parametrize("wire", ["safetensors", "json"])
def test_attention_of_tensors_is_the_engines_own(ask: Ask, wire: str) -> None:
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 5, 7)).astype(np.float32)
    visible = np.tri(5, dtype=bool)
    answer = ask("attend", q, torch.from_numpy(k), v[:, ::-1].copy()[:, ::-1], mask=visible, options={"wire": wire})
    expected = kqv.attend(*(torch.from_numpy(each)[None] for each in (q, k, v)), mask="causal").entry(0)
    for name in ("scores", "scaled_scores", "weights"):
        same(getattr(expected, name), getattr(answer, name))
    same(expected.output, answer.head_outputs)
    assert answer.diagnostics["entropy"].shape == (2,)


def test_heads_are_projected_and_joined(ask: Ask) -> None:
    x = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    answer = ask("multi_head", x, 3, seed=7, include=["output", "weights"])
    expected = kqv.multi_head(torch.from_numpy(x), kqv.draw_projections(6, 3, 7), 3)
    assert np.allclose(answer.output, expected.output, atol=1e-6)
    assert answer.weights.shape == (3, 5, 5)
    assert answer.q is None
    given_lists = ask("multi_head", x.tolist(), 3, seed=7, attention={"kind": "longformer", "window": 2}, compare=True)
    assert given_lists.comparison.weight_error.shape == (3,)


@pytest.mark.usefixtures("one_thread")
def test_texts_are_written_at_once_and_token_by_token(ask: Ask, decoder: kqv.Model) -> None:
    asked: dict[str, Any] = {"model": decoder.id, "max_new_tokens": 5, "weights": "full", "diagnostics": ["entropy"]}
    whole = ask("generate", ["ab", "cde"], **asked)
    selection = kqv.Selection(weights="full", diagnostics=("entropy",), outputs=())
    same(decoder.generate(["ab", "cde"], max_new_tokens=5, selection=selection), list(whole))
    tokens, answer = ask("stream", ["ab", "cde"], **asked)
    same(whole.results, answer.results)
    assert (answer.usage, answer.model, answer.usage.new_tokens) == (whole.usage, whole.model, 10)
    for index, result in enumerate(whole):
        its = [token for token in tokens if token.index == index]
        assert "".join(token.text for token in its) == result.text
        assert tuple(token.token_id for token in its) == result.token_ids
        first, second = (token.attention["decoder"] for token in its[:2])
        assert first.weights.shape[2] == 2 + index and second.diagnostics["entropy"].shape[2] == 1


def test_texts_are_tokenized_and_embedded(ask: Ask, model: kqv.Model) -> None:
    [text] = ask("tokenize", "the cat")
    [analysis] = model.analyze(["the cat"], outputs=["pooled"], weights="none")
    assert (text.tokens, text.token_ids) == (analysis.tokens, analysis.token_ids)
    assert text.offsets[1] == (0, 3)
    vectors = ask("embeddings", ["the cat", "the"], model=model.id)
    assert np.array_equal(vectors[0], analysis.pooled)
    assert (vectors.usage.tokens, vectors[1].dtype) == (7, np.float32)


def test_rows_are_the_figures_of_each_head(ask: Ask) -> None:
    asked: dict[str, Any] = {"layers": [0, 2], "heads": [4, 1], "diagnostics": ["previous", "duplicate"]}
    answer = ask("diagnostics", ["the cat sat", np.array([2, 3, 5])], **asked)
    analyses = ask("analyze", ["the cat sat", [2, 3, 5]], weights="none", outputs=[], **asked)
    places = itertools.product([0, 1], ["previous", "duplicate"], enumerate([0, 2]), enumerate([4, 1]))
    for found, (sequence, measure, (row, layer), (column, head)) in zip(answer, places, strict=True):
        value = analyses[sequence].attention["encoder"].diagnostics[measure][row, column]
        expected = given.Row(sequence, "encoder", layer, head, measure, pytest.approx(value, nan_ok=True))
        assert found == expected
    assert any(np.isnan(row.value) for row in answer) and not all(np.isnan(row.value) for row in answer)
    assert (answer.usage, answer.model, len(answer)) == (analyses.usage, analyses.model, 16)
    assert answer.timing.batch_sequences == 2


def test_embed_tokens_open_what_they_say_and_are_not_shown(model: kqv.Model, kind: str) -> None:
    page = {"origin": "https://page.example"}
    with listening(make_app(model, api_keys=f"page:{KEY}", embed_secret=SECRET)) as url:
        made = call_both(url, kind, "embed_token", ["https://page.example"], routes=["models"], ttl=60, options={"api_key": KEY})
        assert 0 < made.expires_at - time.time() <= 61
        assert made.token not in repr(made)
        assert call_both(url, kind, "models", options={"api_key": made.token, "headers": page})
        with pytest.raises(told.ForbiddenError, match="for models alone"):
            call_both(url, kind, "tokenize", "the", options={"api_key": made.token, "headers": page})
        with pytest.raises(told.UnknownModelError):
            call_both(url, kind, "embed_token", [], models=["other"], options={"api_key": KEY})
        with pytest.raises(told.InvalidError) as raised:
            call_both(url, kind, "embed_token", ["page.example"], options={"api_key": KEY})
        assert raised.value.location == ("origins", 0)


def test_server_without_a_secret_says_which_setting_it_wants(ask: Ask) -> None:
    with pytest.raises(told.NotOfferedError, match="KQV_EMBED_SECRET"):
        ask("embed_token", [])


def test_models_and_health(ask: Ask, model: kqv.Model, decoder: kqv.Model) -> None:
    first, second = ask("models")
    assert (first.id, first.layers, first.heads, second.id) == (model.id, 3, 5, decoder.id)
    assert ask("health") == given.Health(ready=True)


def test_results_have_the_fields_that_answers_have() -> None:
    def names(kind: Any) -> set[str]:
        return set(kind.model_fields) if hasattr(kind, "model_fields") else {each.name for each in fields(kind)}

    for ours, theirs in (
        (given.Analysis, kqv.Analysis),
        (given.GroupAnalysis, kqv.GroupAnalysis),
        (given.TopWeights, kqv.TopWeights),
        (given.Comparison, kqv.Comparison),
        (given.Checks, kqv.Checks),
        (given.Generated, kqv.Generated),
        (given.Attended, answers.AttendAnswer),
        (given.Token, answers.TokenEvent),
        (given.TokenizedText, answers.TokenizedText),
        (given.Row, answers.Row),
        (given.EmbedToken, answers.EmbedTokenAnswer),
        (given.Timing, answers.Timing),
        (given.Usage, answers.GenerationUsage),
    ):
        assert names(ours) == names(theirs), ours
    assert names(given.ModelCard) == names(answers.ModelCard) - {"object"}


def test_calls_have_the_arguments_that_requests_have() -> None:
    for asks, schema, others in (
        ((calls.analyze,), requests.AnalyzeRequest, {"encoding"}),
        ((calls.generate,), requests.GenerateRequest, {"encoding", "stream"}),
        ((calls.tokenize,), requests.TokenizeRequest, set()),
        ((calls.diagnostics,), requests.RowsRequest, set()),
        ((calls.attend, calls.multi_head), requests.AttendRequest, {"encoding"}),
    ):
        arguments = {name for each in asks for name in inspect.signature(each).parameters}
        assert arguments | others == set(schema.model_fields), schema
    arguments = set(inspect.signature(calls.embed_token).parameters)
    fields_of_tokens = set(requests.EmbedTokenRequest.model_fields) - {"scope"} | set(requests.EmbedScope.model_fields)
    assert arguments == fields_of_tokens and get_args(calls.Route) == get_args(embed_tokens.Route)
    assert inspect.signature(Client("http://a").analyze) == inspect.signature(calls.analyze)
    assert clients.Client.analyze.__doc__ == calls.analyze.__doc__


def test_every_error_of_the_service_has_its_class() -> None:
    elsewhere = (errors.UnknownVersionError, errors.ClientGoneError)  # of /v2, and of the log
    for kind in all_errors(errors.ServiceError):
        if "title" in vars(kind) and kind not in elsewhere:
            ours = told.KINDS["urn:kqv:" + kind.title.lower().replace(" ", "-")]
            assert ours.__name__ == kind.__name__
            assert told.STATUSES[kind.status] in (ours, *ours.__mro__, *ours.__mro__[1].__subclasses__())
            assert ours.__name__ in str(told.__doc__)


def all_errors(kind: type) -> Iterator[Any]:
    for each in kind.__subclasses__():
        yield each
        yield from all_errors(each)


REFUSED: dict[str, tuple[type[Exception], str, tuple[Any, ...]]] = {
    "layer": (told.InvalidError, "the model has 3", ("layers", 0)),
    "model": (told.UnknownModelError, "there are: tiny", ()),
    "answer": (told.AnswerTooLargeError, "ask for weights", ()),
    "body": (told.BodyTooLargeError, "longer than 100000 bytes", ()),
    "vectors": (told.InvalidError, "", ("input",)),
}
ASKED: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "layer": ("analyze", "the", {"layers": [9]}),
    "model": ("analyze", "the", {"model": "other"}),
    "answer": ("analyze", [[5] * 41] * 7, {}),
    "body": ("analyze", "a" * 100_000, {}),
    "vectors": ("embeddings", [], {}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_each_refusal_has_a_class_and_says_where(ask: Ask, case: str) -> None:
    method, asked, named = ASKED[case]
    error_kind, detail, location = REFUSED[case]
    with pytest.raises(error_kind) as raised:
        ask(method, asked, **named)
    error = raised.value
    assert isinstance(error, told.ClientError)
    assert detail in error.detail and error.detail in str(error)
    assert error.location == location
    assert error.request_id is not None and error.request_id in str(error)
    assert error.status in (400, 404, 413, 422)
    assert error.retry_after_s is None


def test_a_field_at_fault_is_a_value_error(url: str) -> None:
    with Client(url) as client, pytest.raises(ValueError, match="layers has 9"):
        client.analyze("the", layers=[9])


def test_keys_are_sent_and_never_shown(model: kqv.Model, kind: str) -> None:
    with listening(make_app(model, api_keys=f"page:{KEY}")) as url:
        assert call_both(url, kind, "models", options={"api_key": KEY})
        for options in ({}, {"api_key": KEY[:-1]}):
            with pytest.raises(told.UnauthorizedError) as raised:
                call_both(url, kind, "models", options=options)
            assert KEY[:-1] not in str(raised.value)
        client = Client(url, api_key=KEY)
        assert KEY not in repr(client) + repr(client.options) + str(vars(client))
        with client, pytest.raises(told.UnauthorizedError):
            client.with_options(api_key="another-key-of-some-length").models()


# What the real server doesn't do on command, a scripted one does.


class Script:
    """Answers in order, each a status, headers and a body; the last one again and again. A body of None hangs up."""

    def __init__(self, *answers: tuple[int, dict[str, str], bytes | None]) -> None:
        self.answers = list(answers)
        self.seen: list[dict[str, str]] = []
        self.times: list[float] = []

    @contextmanager
    def served(self) -> Iterator[str]:
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                script.seen.append({name.lower(): value for name, value in self.headers.items()})
                script.times.append(time.monotonic())
                status, headers, body = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
                if body is None:
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = True

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


JSON = {"content-type": "application/json"}
MODELS = (200, JSON, b'{"object": "list", "data": []}')


def problem(status: int, kind: str = "about:blank", **headers: str) -> tuple[int, dict[str, str], bytes]:
    document = {"type": kind, "title": "T", "status": status, "detail": "why", "request_id": "r"}
    return status, {"content-type": "application/problem+json", **headers}, json.dumps(document).encode()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "FIRST_PAUSE_S", 0.01)


@pytest.mark.parametrize(
    "first",
    [
        problem(429, "urn:kqv:overloaded"),
        problem(503, "urn:kqv:unavailable"),
        (503, {}, b"<html>no server</html>"),
        (502, {}, b"<html>no server</html>"),
        (200, JSON, None),
    ],
    ids=["429", "503", "503 of a proxy", "502 of a proxy", "hang-up"],
)
def test_what_may_pass_is_tried_again(kind: str, first: tuple[int, dict[str, str], bytes | None]) -> None:
    script = Script(first, first, MODELS)
    with script.served() as url:
        assert call_both(url, kind, "models") == ()
    assert len(script.seen) == 3


def test_no_attempt_comes_before_the_time_that_the_server_names(kind: str) -> None:
    script = Script(problem(429, "urn:kqv:overloaded", **{"retry-after": "1"}), MODELS)
    with script.served() as url:
        call_both(url, kind, "models")
    assert 1 <= script.times[1] - script.times[0] < 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 415, 422, 500, 504])
def test_what_will_not_pass_is_not_tried_again(kind: str, status: int) -> None:
    script = Script(problem(status))
    with script.served() as url, pytest.raises(told.ClientError) as raised:
        call_both(url, kind, "models")
    assert len(script.seen) == 1
    assert (raised.value.status, raised.value.detail, raised.value.request_id) == (status, "why", "r")
    assert type(raised.value) is told.STATUSES.get(status, told.RefusedError)


def test_attempts_come_to_an_end(kind: str) -> None:
    script = Script(problem(429, "urn:kqv:too-many-requests-of-this-key", **{"retry-after": "0"}))
    with script.served() as url, pytest.raises(told.KeyBusyError) as raised:
        call_both(url, kind, "models", options={"retries": 2})
    assert len(script.seen) == 3
    assert raised.value.retry_after_s == 0


@pytest.mark.parametrize(("retry_after", "deadline_s"), [("3600", None), ("5", 1.0)], ids=["too long", "after the deadline"])
def test_no_pause_is_longer_than_makes_sense(kind: str, retry_after: str, deadline_s: float | None) -> None:
    script = Script(problem(503, "urn:kqv:unavailable", **{"retry-after": retry_after}))
    started = time.monotonic()
    with script.served() as url, pytest.raises(told.UnavailableError) as raised:
        call_both(url, kind, "models", options={"deadline_s": deadline_s})
    assert time.monotonic() - started < 1
    assert raised.value.retry_after_s == float(retry_after)
    assert len(script.seen) == 1


def test_retry_after_may_be_a_date() -> None:
    assert told.seconds_of("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert told.seconds_of("soon") is None
    assert told.seconds_of(" 7 ") == 7


def test_the_server_is_told_what_is_left_of_the_time() -> None:
    script = Script(problem(503, **{"retry-after": "1"}), MODELS)
    with script.served() as url:
        call_both(url, "sync", "models", options={"deadline_s": 20.0, "headers": {"x-request-id": "mine"}})
    first, second = (int(seen["x-request-timeout-ms"]) for seen in script.seen)
    assert 19_000 < first <= 20_000 and 17_000 < second <= first - 1000
    assert script.seen[0]["x-request-id"] == "mine"
    script = Script(MODELS)
    with script.served() as url:
        call_both(url, "sync", "models", options={"deadline_s": None})
    assert "x-request-timeout-ms" not in script.seen[0]


@pytest.mark.parametrize(
    "answer",
    [
        (200, JSON, b"no JSON"),
        (200, JSON, b'{"object": "list"}'),
        (200, JSON, b"[]"),
        (302, {"location": "http://127.0.0.1:9/"}, b""),
        (418, {}, b"<html>"),
        (200, {"content-type": "application/x-safetensors"}, b"\x05"),
    ],
)
def test_an_answer_of_something_else_is_told_so(kind: str, answer: tuple[int, dict[str, str], bytes]) -> None:
    with Script(answer).served() as url, pytest.raises(told.UnexpectedAnswerError, match="kqv server") as raised:
        call_both(url, kind, "models")
    assert raised.value.status == answer[0]


def test_health_is_asked_once_and_never_raises_for_a_server_that_is_not_ready(kind: str) -> None:
    script = Script(problem(503, "urn:kqv:unavailable", **{"retry-after": "1"}))
    with script.served() as url:
        assert call_both(url, kind, "health") == given.Health(ready=False, detail="why")
    assert len(script.seen) == 1


TOKEN = b'event: token\ndata: {"index":0,"token_id":5,"token":"a","text":"a\xe2\x80\xa8"}\n\n'


@pytest.mark.parametrize("chunked", [True, False])
def test_server_that_hangs_up_midway_is_told_after_the_tokens_that_came(kind: str, chunked: bool) -> None:
    headers = {"content-type": "text/event-stream"} | ({"content-length": "999"} if chunked else {})
    seen: list[given.Token] = []

    def read(url: str) -> None:
        for token in Client(url).stream("a"):
            seen.append(token)  # noqa: PERF402 -- those that came before the error count

    async def read_async(url: str) -> None:
        async for token in AsyncClient(url).stream("a"):
            seen.append(token)  # noqa: PERF401 -- likewise

    with Script((200, headers, TOKEN + TOKEN[:20])).served() as url, pytest.raises(told.UnreachableError, match="went away"):
        read(url) if kind == "sync" else anyio.run(read_async, url)
    assert [token.text for token in seen] == ["a\u2028"]


def test_problem_midway_is_an_error_like_any_other(kind: str) -> None:
    late = b'event: error\ndata: {"type": "urn:kqv:deadline-exceeded", "status": 504, "detail": "too late", "request_id": "r"}\n\n'
    headers = {"content-type": "text/event-stream"}
    with Script((200, headers, TOKEN + late)).served() as url, pytest.raises(told.DeadlineError, match="too late"):
        call_both(url, kind, "stream", "a")


def test_server_that_is_not_there(kind: str) -> None:
    with Script(MODELS).served() as url:
        pass
    started = time.monotonic()
    with pytest.raises(told.UnreachableError, match="can't be reached") as raised:
        call_both(url, kind, "models", options={"retries": 1})
    assert time.monotonic() - started < 5
    assert raised.value.status is None
    with pytest.raises(ValueError, match="begins with http"):
        Client("kqv.example:8000")


def test_overloaded_server_is_asked_again_until_it_has_room(model: kqv.Model, kind: str) -> None:
    app = make_app(model, max_waiting_sequences=1)
    with listening(app) as url, ThreadPoolExecutor(2) as pool:
        gate = keep_busy(app)
        pending = [pool.submit(call_both, url, kind, "analyze", "the cat", weights="none") for _ in range(2)]
        wait_until(lambda: 'kqv_rejected_total{reason="overloaded"} 1.0' in app.state.service.metrics.text().decode())
        gate.open()
        assert [each.result(10)[0].truncated for each in pending] == [0, 0]


def test_server_that_is_loading_is_asked_again(model: kqv.Model, kind: str) -> None:
    models = Models(lambda: [model])
    app = create_app(Settings(workers=1, threads=1), models)
    with listening(app) as url, ThreadPoolExecutor(1) as pool:
        pending = pool.submit(call_both, url, kind, "tokenize", "the cat")
        wait_until(lambda: 'kqv_rejected_total{reason="unavailable"} 1.0' in app.state.service.metrics.text().decode())
        models.load()
        assert pending.result(10)[0].tokens[1] == "the"


def test_deadline_is_the_servers_too(model: kqv.Model, kind: str) -> None:
    app = make_app(model)
    with listening(app) as url:
        gate = keep_busy(app)
        started = time.monotonic()
        with pytest.raises(told.DeadlineError, match="no answer within"):
            call_both(url, kind, "analyze", "the cat", options={"deadline_s": 0.3})
        assert 0.2 < time.monotonic() - started < 2
        wait_until(lambda: not app.state.service.batcher.load.waiting)  # the server has given it up, too
        gate.open()


def test_deadline_holds_against_a_server_that_says_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    silence = threading.Event()
    script = Script(MODELS)
    monkeypatch.setattr(script, "answers", Silent(silence))
    started = time.monotonic()
    with script.served() as url:
        with pytest.raises(told.DeadlineError, match=r"within 0\.3 s") as raised:
            call_both(url, kind, "models", options={"deadline_s": 0.3})
        silence.set()
    assert 0.3 <= time.monotonic() - started < 2
    assert raised.value.status is None


class Silent(list[Any]):
    """A script that says its only line when it may."""

    def __init__(self, silence: threading.Event) -> None:
        super().__init__([MODELS])
        self._silence = silence

    def __getitem__(self, index: Any) -> Any:
        assert self._silence.wait(10)
        return super().__getitem__(index)


@contextmanager
def stalling(*pieces: bytes, every_s: float) -> Iterator[str]:
    """A server that says its pieces after a pause each, and then keeps the connection and says nothing more."""
    over = threading.Event()

    def serve() -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                for piece in pieces:
                    over.wait(every_s)
                    connection.sendall(piece)
                over.wait(10)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            thread.join()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\n"
EVENT = b'event: token\ndata: {"index": 0, "token_id": 5}\n\n'
STALLED = {
    "within the body": ("models", (HEAD % b"application/json" + b"content-length: 99\r\n\r\n{", *[b" "] * 9)),
    "between two tokens": (
        "stream",
        (HEAD % b"text/event-stream" + b"transfer-encoding: chunked\r\n\r\n", *[b"%x\r\n%s\r\n" % (len(EVENT), EVENT)] * 9),
    ),
}


@pytest.mark.parametrize("case", STALLED)
def test_deadline_holds_while_an_answer_stands_still(kind: str, case: str) -> None:
    method, pieces = STALLED[case]
    arguments = ("ab",) if method == "stream" else ()
    with stalling(*pieces, every_s=0.6) as url:
        started = time.monotonic()
        with pytest.raises(told.DeadlineError, match=r"within 1 s"):
            call_both(url, kind, method, *arguments, options={"deadline_s": 1.0})
        took = time.monotonic() - started
    assert 0.95 < took < 5, took  # the time-outs of single reads would end at 7 or later


def test_stream_that_is_left_stops_the_servers_work(decoder: kqv.Model, steps: list[int], kind: str) -> None:
    app = make_app(decoder)
    with listening(app) as url:

        async def leave() -> None:
            async with AsyncClient(url) as client, client.stream("ab", max_new_tokens=30) as tokens:
                await anext(tokens)

        if kind == "sync":
            with Client(url) as client, client.stream("ab", max_new_tokens=30) as tokens:
                next(tokens)
                with pytest.raises(RuntimeError, match="last token"):
                    _ = tokens.answer
        else:
            anyio.run(leave)
        wait_until(lambda: not (app.state.service.batcher.load.running or app.state.service.batcher.load.waiting))
        assert 1 <= len(steps) < 30


def test_threads_share_a_client(url: str) -> None:
    with Client(url) as client, ThreadPoolExecutor(8) as pool:
        texts = ["the cat", "the", "the cat sat", "a"] * 5
        answers = pool.map(client.analyze, texts)
        alone = {text: client.analyze(text)[0] for text in set(texts)}
        for text, answer in zip(texts, answers, strict=True):
            assert answer[0].tokens == alone[text].tokens


def test_nested_sequences_are_no_numbers(ask: Ask) -> None:
    sequences: Sequence[Any] = [np.array([2, 3]), (4, 5)]
    answer = ask("analyze", sequences, weights="none")
    assert [each.token_ids for each in answer] == [(2, 3), (4, 5)]

"""The balancer of deploy/haproxy.cfg, as it is, on the loopback: no request is lost, and no header passes that shouldn't."""

import asyncio
import itertools
import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import tiny
from problems import problem
from tools import tool

from benchmarks.cluster import Cluster, balanced, cluster
from service.cli.load import Sample, Target, open_loop, poisson


@pytest.fixture(autouse=True)
def _haproxy() -> None:
    tool("haproxy")


BUFFER = 131072
"""What the balancer keeps of a request, headers and all."""


class Probe(ThreadingHTTPServer):
    """Stands in a replica's place, keeps what it was sent, and answers as a test wants it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.port = self.server_address[1]
        self.answer: Callable[[BaseHTTPRequestHandler], None] = answer_with(200)
        self.received: list[httpx.Headers] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Probe

    def do_GET(self) -> None:
        answer_with(200)(self)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append(httpx.Headers(self.headers.items()))
        self.server.answer(self)

    def log_message(self, format: str, *args: object) -> None:
        pass


def answer_with(status: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in (headers if "content-type" in headers else headers | {"content-length": "0"}).items():
            handler.send_header(name, value)
        handler.end_headers()

    return answer


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


@pytest.fixture
def probes() -> Iterator[list[Probe]]:
    with ExitStack() as stack:
        yield [stack.enter_context(probing()) for _ in range(3)]


@contextmanager
def probing() -> Iterator[Probe]:
    with Probe() as probe:
        thread = threading.Thread(target=probe.serve_forever, args=(0.01,))
        thread.start()
        yield probe
        probe.shutdown()
        thread.join()


@pytest.fixture
def client(probes: list[Probe]) -> Iterator[httpx.Client]:
    with balanced(probes) as balancer, httpx.Client(base_url=balancer.address, timeout=30) as client:
        yield client


@pytest.mark.parametrize("answer", [hang_up, answer_with(503)], ids=["hang-up", "503"])
def test_a_request_that_fails_goes_to_another_replica_under_the_same_id(
    answer: Callable[[BaseHTTPRequestHandler], None], probes: list[Probe], client: httpx.Client
) -> None:
    probes[0].answer = probes[1].answer = answer
    for _ in range(3):
        assert client.post("/v1/analyze", json={"input": "the cat"}).status_code == 200
    assert len(probes[2].received) == 3
    tried = probes[0].received + probes[1].received
    assert tried
    assert {headers["x-request-id"] for headers in tried} <= {headers["x-request-id"] for headers in probes[2].received}


def test_a_replica_that_is_overloaded_is_believed(probes: list[Probe], client: httpx.Client) -> None:
    for probe in probes:
        probe.answer = answer_with(429, **{"retry-after": "7"})
    response = client.post("/v1/analyze", json={"input": "the cat"})
    assert response.status_code == 429
    assert response.headers["retry-after"] == "7"
    assert sum(len(probe.received) for probe in probes) == 1


def test_what_does_not_fit_the_buffer_is_not_repeated(probes: list[Probe], client: httpx.Client) -> None:
    for probe in probes:
        probe.answer = hang_up
    assert "too long to be kept" in problem(client.post("/v1/analyze", content=b" " * BUFFER), 502)["detail"]
    assert sum(len(probe.received) for probe in probes) == 1


def test_headers_for_the_next_hop_end_at_the_balancer(probes: list[Probe], client: httpx.Client) -> None:
    forged = {"x-forwarded-for": "6.6.6.6", "x-forwarded-host": "evil", "x-forwarded-proto": "https", "forwarded": "for=6.6.6.6"}
    hop = {"keep-alive": "timeout=9", "proxy-connection": "close", "te": "trailers", "proxy-authorization": "Basic x", "proxy": "x"}
    passed = {"authorization": "Bearer key", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    for probe in probes:
        probe.answer = answer_with(200, **{"keep-alive": "timeout=5", "server": "probe", "server-timing": "forward;dur=1"})
    response = client.post("/v1/analyze", json={}, headers=forged | hop | passed)
    [received] = itertools.chain.from_iterable(probe.received for probe in probes)
    assert not hop.keys() & received.keys()
    assert passed.items() <= received.items()
    assert {name: value for name, value in received.items() if "forwarded" in name} == {
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "http",
    }
    assert not {"keep-alive", "server"} & response.headers.keys()
    assert response.headers["server-timing"] == "forward;dur=1"


@pytest.mark.parametrize("given", [["two words"], ["a", "b"], ["x" * 129]], ids=["malformed", "twice", "long"])
def test_a_request_id_that_is_none_is_replaced(given: list[str], probes: list[Probe], client: httpx.Client) -> None:
    client.post("/v1/analyze", json={}, headers=[("x-request-id", value) for value in given])
    [received] = itertools.chain.from_iterable(probe.received for probe in probes)
    assert len(received["x-request-id"]) == 36


def test_a_request_id_is_passed_on(probes: list[Probe], client: httpx.Client) -> None:
    client.post("/v1/analyze", json={}, headers={"x-request-id": "mine:1"})
    [received] = itertools.chain.from_iterable(probe.received for probe in probes)
    assert received["x-request-id"] == "mine:1"


def test_headers_are_bounded(probes: list[Probe], client: httpx.Client) -> None:
    problem(client.post("/v1/analyze", json={}, headers={"x-long": "x" * 16384}), 431)
    assert client.post("/v1/analyze", json={}, headers={f"x-{index}": "" for index in range(64)}).status_code == 400
    assert not any(probe.received for probe in probes)


@pytest.mark.parametrize("path", ["/metrics", "/%6detrics", "/metrics/"])
def test_metrics_are_not_for_the_public(path: str, client: httpx.Client) -> None:
    problem(client.get(path), 404)


def test_nobody_there_is_a_problem_document_and_the_metrics_of_the_balancer_say_so(probes: list[Probe]) -> None:
    for probe in probes:
        probe.server_close()
    with balanced(probes) as balancer:
        response = httpx.post(f"{balancer.address}/v1/analyze", json={}, timeout=30)
        problem(response, 503)
        assert response.headers["retry-after"] == "1"
        assert "haproxy_server_status{" in httpx.get(f"{balancer.stats}/metrics").text
        assert httpx.get(f"{balancer.stats}/").status_code == 404


def test_each_event_of_a_stream_passes_as_it_comes(probes: list[Probe], client: httpx.Client) -> None:
    seen = threading.Event()

    def stream(handler: BaseHTTPRequestHandler) -> None:
        answer_with(200, **{"content-type": "text/event-stream", "connection": "close"})(handler)
        for each in (b"data: 1\n\n", b"data: 2\n\n"):
            handler.wfile.write(each)
            seen.wait(10)
        handler.close_connection = True

    for probe in probes:
        probe.answer = stream
    with client.stream("POST", "/v1/generate", json={}) as response:
        events = response.iter_raw()
        assert next(events) == b"data: 1\n\n"
        assert not seen.is_set()
        seen.set()
        assert b"".join(events) == b"data: 2\n\n"


SENTENCES = ("the cat sat", "a dog ran to the mat .", "who saw it and slept in the sun ?")


def test_replicas_that_are_killed_or_restarted_lose_no_request(tmp_path: Path) -> None:
    """kill -9 of one under load, then a rolling restart of all by SIGTERM."""
    tiny.bert(tmp_path / "tiny")
    with cluster(tmp_path / "tiny", drain_s=2) as replicated:
        samples = asyncio.run(load_while(replicated, disturb))
    lost = [sample for sample in samples if sample.outcome != "200"]
    assert not lost, f"{len(lost)} of {len(samples)} are lost: {lost[:3]}"
    assert len(samples) >= 300
    right = {sent: tokens(sent) for sent in {sample.sent for sample in samples}}
    assert all(json.loads(sample.answer.content)["results"][0]["tokens"] == right[sample.sent] for sample in samples)


def disturb(replicated: Cluster) -> None:
    first = replicated.replicas[0]
    assert replicated.replace(first, signal.SIGKILL) == -signal.SIGKILL
    for replica in replicated.replicas:
        assert replicated.replace(replica, signal.SIGTERM) == 0


async def load_while(replicated: Cluster, disturb: Callable[[Cluster], None]) -> list[Sample]:
    """What became of the requests that came meanwhile, thirty a second: enough to be met, and few enough for replicas to start."""
    samples: list[Sample] = []
    disturbing = asyncio.create_task(asyncio.to_thread(disturb, replicated))
    bodies = itertools.cycle(json.dumps({"input": text, "weights": "none", "outputs": []}).encode() for text in SENTENCES)
    arrivals = itertools.takewhile(lambda due: not disturbing.done(), poisson(30, 120))
    await open_loop(Target.parse(replicated.address), bodies, arrivals, samples.append)
    await disturbing
    return samples


def tokens(sent: bytes) -> list[str]:
    return ["[CLS]", *json.loads(sent)["input"].split(), "[SEP]"]

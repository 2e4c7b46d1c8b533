"""What HTTP adds: `POST /v1/analyze` by one client, against the same call in process."""

import http.client
import json
from functools import partial

import httpx

import kqv
from benchmarks.server import serving
from benchmarks.side_by_side import Call, side_by_side
from kqv.selection import Weights
from service.cli.load import sentences

TEXTS = {"9 tokens": "The cat sat on the mat.", "41 tokens": sentences(1, 28, 28)[0]}
WEIGHTS: dict[str, Weights] = {"diagnostics": "none", "diagnostics and all weights": "full"}


def run() -> None:
    """One sentence a request over one kept connection, by a lean client and by httpx; the model in process has its turns too."""
    model = kqv.load("minilm")
    with serving() as server, httpx.Client(base_url=server.address) as client:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        for length, text in TEXTS.items():
            for title, weights in WEIGHTS.items():
                asked = {"input": text, "weights": weights}
                rivals: dict[str, Call] = {
                    "in process": partial(model.analyze, [text], weights=weights),
                    "over HTTP, http.client": partial(post, connection, asked),
                    "over HTTP, httpx": partial(client.post, "/v1/analyze", json=asked),
                }
                side_by_side(f"One request, {length}, {title}", rivals, repeats=10)


def post(connection: http.client.HTTPConnection, body: dict[str, str]) -> bytes:
    """The answer's bytes."""
    connection.request("POST", "/v1/analyze", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        raise RuntimeError(content.decode())
    return content

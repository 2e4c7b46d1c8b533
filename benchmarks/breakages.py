"""The ways in which a request is broken, one function each: a body cut, slow or no JSON, a length that lies, a hang-up."""

import functools
import gzip
import itertools
import json
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from service.cli.load import Target

Pieces = Sequence[bytes | float]
"""What goes over the wire: bytes, and pauses in seconds. Then the client waits for an answer, unless it ends with `HANG_UP`."""

HANG_UP = b""
JSON = "Content-Type: application/json"
FILE = "Content-Type: application/x-safetensors"
NO_LENGTHS = ("-1", "one", "1e3", "0x10", " ", "9" * 40, "5, 6", "+5")


@dataclass(frozen=True)
class Good:
    """A request as it should be, which is then broken."""

    target: Target
    model: str
    body: bytes

    @property
    def inference(self) -> str:
        """Where Open Inference Protocol is spoken."""
        return f"/v2/models/{self.model}/infer"


def broken_requests(target: Target, model: str, texts: Sequence[str]) -> Iterator[tuple[str, Pieces]]:
    """One kind after the other, for ever; the same ones in every run."""
    draw = random.Random(0)
    while True:
        for kind, make in KINDS.items():
            body = {"input": draw.choice(texts), "weights": draw.choice(["none", "top", "full"]), "truncate": "right"}
            yield kind, make(draw, Good(target, model, json.dumps(body).encode()))


def head(good: Good, *headers: str, path: str = "") -> bytes:
    lines = [f"POST {path or good.target.path} HTTP/1.1", f"Host: {good.target.host}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def sized(good: Good, length: object) -> bytes:
    return head(good, JSON, f"Content-Length: {length}")


def whole(good: Good, body: bytes, *headers: str, path: str = "") -> Pieces:
    """With a body whose length is right."""
    return (head(good, *headers, f"Content-Length: {len(body)}", path=path) + body,)


def cut_body(draw: random.Random, good: Good) -> Pieces:
    return sized(good, len(good.body)), good.body[: draw.randrange(len(good.body))], HANG_UP


def cut_head(draw: random.Random, good: Good) -> Pieces:
    uncut = sized(good, len(good.body))
    return uncut[: draw.randrange(1, len(uncut))], HANG_UP


def hang_up(draw: random.Random, good: Good) -> Pieces:
    return sized(good, len(good.body)) + good.body, draw.choice([0.0, 0.002, 0.01]), HANG_UP


def slow_body(draw: random.Random, good: Good) -> Pieces:
    """It comes in the end, and is right: the answer is a 200."""
    step = max(1, len(good.body) // 8)
    trickle: Iterator[Pieces] = ((good.body[start : start + step], 0.01) for start in range(0, len(good.body), step))
    return sized(good, len(good.body)), *itertools.chain.from_iterable(trickle)


def longer_than_said(draw: random.Random, good: Good) -> Pieces:
    return sized(good, draw.randrange(len(good.body))) + good.body, 0.05, HANG_UP


def shorter_than_said(draw: random.Random, good: Good) -> Pieces:
    return sized(good, len(good.body) + draw.randrange(1, 1000)) + good.body, 0.05, HANG_UP


def no_length(draw: random.Random, good: Good) -> Pieces:
    return (sized(good, draw.choice(NO_LENGTHS)) + good.body,)


def two_lengths(draw: random.Random, good: Good) -> Pieces:
    return (head(good, JSON, f"Content-Length: {len(good.body)}", f"Content-Length: {len(good.body) + 1}") + good.body,)


def bad_chunks(draw: random.Random, good: Good) -> Pieces:
    chunks = draw.choice([b"zz\r\n", b"-1\r\n", b"5\r\nab\r\n0\r\n\r\n"])
    return head(good, JSON, "Transfer-Encoding: chunked") + chunks + good.body, 0.05, HANG_UP


def fuzzed(draw: random.Random, good: Good) -> Pieces:
    """A few bytes changed, taken out or put in; now and then it is a good request still."""
    changed = bytearray(good.body)
    for _ in range(draw.randint(1, 6)):
        place = draw.randrange(len(changed))
        match draw.randrange(3):
            case 0:
                changed[place] = draw.randrange(256)
            case 1:
                del changed[place]
            case _:
                changed[place:place] = draw.choice(
                    [b'"', b"{", b"[", b",", b"\\u", b"1e999", b"null", bytes([draw.randrange(256)])]
                )
    return whole(good, bytes(changed), JSON)


def nested(draw: random.Random, good: Good) -> Pieces:
    return whole(good, b'{"input": ' + b"[" * draw.choice([150, 10_000, 100_000]), JSON)


def wrong_types(draw: random.Random, good: Good) -> Pieces:
    value: object = draw.choice([None, -1, 1e308, True, [], {}, [[]], ["a", 1], "x" * 10_000, {"text": 1}, 10**30])
    field = draw.choice(["input", "layers", "weights", "model", "top_k", "diagnostics"])
    return whole(good, json.dumps({"input": "a", field: value}).encode(), JSON)


def wrong_values(draw: random.Random, good: Good) -> Pieces:
    """Each of its own type, and of none that there is here."""
    wrong = draw.choice(
        [
            {"model": "no such model"},
            {"layers": [99]},
            {"heads": [-99]},
            {"outputs": ["gradients"]},
            {"diagnostics": ["vibes"]},
            {"weights": "top", "top_k": 0},
            {"queries": [5, 2]},
            {"input": []},
            {"input": ""},
            {"input": [-1]},
            {"input": {"text": "a", "tokens": [5]}},
            {"input": {"embeddings": [[1e30]]}},
            {"attention": {"kind": "performer", "features": 10**12}},
            {"no such field": 1},
        ]
    )
    return whole(good, json.dumps(json.loads(good.body) | wrong).encode(), JSON)


def another_type(draw: random.Random, good: Good) -> Pieces:
    return whole(good, good.body, *draw.choice([(), ("Content-Type: text/plain",), (JSON, "Content-Encoding: br")]))


def bomb(draw: random.Random, good: Good) -> Pieces:
    return whole(good, packed_bomb(), JSON, "Content-Encoding: gzip")


@functools.cache
def packed_bomb() -> bytes:
    """64 MiB, four times what a body may be, in 64 kB."""
    return gzip.compress(bytes(1 << 26))


def no_deadline(draw: random.Random, good: Good) -> Pieces:
    return whole(good, good.body, JSON, f"X-Request-Timeout-Ms: {draw.choice(['0', '-5', 'soon', '1.5', '9' * 40])}")


def no_id(draw: random.Random, good: Good) -> Pieces:
    """What is no id is replaced, and the answer a 200; unless it is longer than headers may be."""
    given = draw.choice(
        [("X-Request-Id: one", "X-Request-Id: two"), ("X-Request-Id: " + "x" * 5000,), ("X-Request-Id: " + "x" * 40_000,)]
    )
    return whole(good, good.body, JSON, *given)


def lying_file(draw: random.Random, good: Good) -> Pieces:
    entry: dict[str, object] = {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}
    lie: dict[str, object] = draw.choice(
        [{"data_offsets": [2, 6]}, {"data_offsets": [4, 0]}, {"data_offsets": [-4, 4]}, {"dtype": "F99"}, {"shape": [2**62, 2**62]}]
    )
    text = json.dumps({"input.embeddings": entry | lie}).encode()
    length = draw.choice([len(text), len(text) - 1, 10**6, 2**63, 2**64 - 1])
    return whole(good, struct.pack("<Q", length) + text + b"1234", FILE)


def lying_inference_length(draw: random.Random, good: Good) -> Pieces:
    text = inference(good)
    length = draw.choice(["-1", "ten", "1e3", "", "9" * 40, str(len(text) + 1), str(len(text) - 1)])
    return whole(good, text, f"Inference-Header-Content-Length: {length}", path=good.inference)


def lying_sizes(draw: random.Random, good: Good) -> Pieces:
    """Bytes that are too few or too many for what is said of them."""
    size, element = draw.choice([-1, 0, 3, 8, 12, 2**70]), draw.choice([3, 5, 2**32 - 1])
    text = inference(good, data=None, parameters={"binary_data_size": size})
    binary = struct.pack("<I", element) + b"cats"
    return whole(good, text + binary, f"Inference-Header-Content-Length: {len(text)}", path=good.inference)


def inference(good: Good, **changes: object) -> bytes:
    """The same text in Open Inference Protocol."""
    given = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [json.loads(good.body)["input"]]} | changes
    tensor = {name: value for name, value in given.items() if value is not None}
    return json.dumps({"inputs": [tensor], "outputs": [{"name": "pooled"}], "parameters": {"truncate": "right"}}).encode()


def no_http(draw: random.Random, good: Good) -> Pieces:
    return draw.randbytes(draw.randrange(1, 300)) + b"\r\n\r\n", 0.02, HANG_UP


KINDS: dict[str, Callable[[random.Random, Good], Pieces]] = {
    make.__name__.replace("_", " "): make
    for make in (
        cut_body,
        cut_head,
        hang_up,
        slow_body,
        longer_than_said,
        shorter_than_said,
        no_length,
        two_lengths,
        bad_chunks,
        fuzzed,
        nested,
        wrong_types,
        wrong_values,
        another_type,
        bomb,
        no_deadline,
        no_id,
        lying_file,
        lying_inference_length,
        lying_sizes,
        no_http,
    )
}

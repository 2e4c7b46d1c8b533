"""The log: lines that people and machines can read, and that nobody can forge."""

import json
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from serving import make_app, serving

import kqv
from service.observing.logs import JsonFormatter, TextFormatter

pytestmark = pytest.mark.anyio


def record(message: str, *arguments: object, exc_info: Any = None, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("service.test", logging.INFO, "", 0, message, arguments, exc_info)
    made.created = 1.5
    made.fields = fields  # type: ignore[attr-defined]
    return made


def test_text_has_its_fields_by_name() -> None:
    line = TextFormatter().format(record("loaded %d", 2, model="tiny", route="/v1/models/{id}", note="two words", none=""))
    expected = '1970-01-01T00:00:01.500Z INFO service.test: loaded 2 model=tiny route=/v1/models/{id} note="two words" none=""'
    assert line == expected


def test_json_is_an_object_a_line() -> None:
    line = JsonFormatter().format(record("loaded %d", 2, model="tiny", tokens=3))
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:01.500Z",
        "level": "INFO",
        "logger": "service.test",
        "message": "loaded 2",
        "model": "tiny",
        "tokens": 3,
    }


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_nothing_that_is_logged_begins_a_line(formatter: logging.Formatter) -> None:
    forged = 'a\n2026-01-01 INFO service: all is well\r\x1b[2J"\u2028'
    line = formatter.format(record("read %s", forged, model=forged))
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_traceback_is_kept(formatter: logging.Formatter) -> None:
    try:
        raise RuntimeError("no more")
    except RuntimeError:
        line = formatter.format(record("failed", exc_info=sys.exc_info()))
    assert "RuntimeError: no more" in line
    if isinstance(formatter, JsonFormatter):
        assert "Traceback" in json.loads(line)["exception"]


@asynccontextmanager
async def asking(model: kqv.Model, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(make_app(model, **settings)) as client:
        yield client


async def logged(model: kqv.Model, caplog: pytest.LogCaptureFixture, *, path: str, body: Any, **settings: Any) -> dict[str, Any]:
    """The fields of the one line about a request."""
    with caplog.at_level(logging.INFO, "service.observing.logs"):
        async with asking(model, **settings) as client:
            await client.post(path, json=body, headers={"authorization": "Bearer correct-horse-battery", "x-request-id": "one"})
    [line] = [each for each in caplog.records if each.name == "service.observing.logs"]
    fields: dict[str, Any] = line.fields  # type: ignore[attr-defined]
    return fields


async def test_line_of_a_request_says_what_it_amounted_to(model: kqv.Model, caplog: pytest.LogCaptureFixture) -> None:
    body = {"input": [[5] * 3, [5] * 4], "weights": "none"}
    fields = await logged(model, caplog, path="/v1/analyze", body=body, api_keys="dashboard:correct-horse-battery")
    durations = {name: fields.pop(name) for name in [*fields] if name.endswith("_ms")}
    assert [*durations] == ["duration_ms", "tokenize_ms", "queue_ms", "forward_ms", "encode_ms"]
    assert all(value >= 0 for value in durations.values())
    assert fields.pop("response_bytes") > 1000
    assert fields == {
        "request_id": "one",
        "method": "POST",
        "route": "/v1/analyze",
        "status": 200,
        "key": "dashboard",
        "model": "tiny",
        "sequences": 2,
        "tokens": 7,
        "request_bytes": len(json.dumps(body, separators=(",", ":"))),
    }


async def test_line_of_a_refusal_says_why(model: kqv.Model, caplog: pytest.LogCaptureFixture) -> None:
    fields = await logged(model, caplog, path="/v1/analyze", body={"input": "a secret", "model": "secret"})
    assert (fields["status"], fields["reason"]) == (404, "unknown_model")
    assert "secret" not in str(fields)

"""The log: one line an event, its fields as name=value or as a JSON object. No bodies, no keys, no paths that a client made up."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from service.errors import ServiceError
from service.http.middleware import Exchange
from service.settings import Settings

logger = logging.getLogger(__name__)

PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/+{}()")


def configure(settings: Settings) -> None:
    """Send everything that is logged to stderr, uvicorn's own lines among it, in the form of the settings."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)


def when(record: logging.LogRecord) -> str:
    """ISO 8601, to the millisecond, in UTC."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What the record has beside its message."""
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


class TextFormatter(logging.Formatter):
    """For people: the time, the severity, the message, and the fields. Nothing in them can begin a new line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={plain(value)}" for name, value in fields_of(record).items())
        line = f"{when(record)} {record.levelname} {record.name}: {one_line(record.getMessage())}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """For machines: an object a line, a traceback among its fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": when(record), "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        line |= fields_of(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def plain(value: object) -> str:
    """As it is where that is one word, else in quotes."""
    text = str(value)
    return text if text and PLAIN.issuperset(text) else json.dumps(text)


def one_line(text: str) -> str:
    """Without anything that a terminal would do more with than show it."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def log_request(exchange: Exchange) -> None:
    """One line a request, without its content."""
    if not logger.isEnabledFor(logging.INFO):
        return
    stages = exchange.stages
    fields: dict[str, Any] = {
        "request_id": exchange.request_id,
        "method": exchange.method,
        "route": exchange.route,
        "status": exchange.status,
        "reason": exchange.error.reason() if isinstance(exchange.error, ServiceError) else None,
        "duration_ms": round(exchange.seconds * 1e3, 1),
        "key": exchange.key,
        "model": stages.model,
        "sequences": stages.sequences or None,
        "tokens": stages.tokens or None,
        "request_bytes": exchange.request_bytes or None,
        "response_bytes": exchange.response_bytes,
        **{f"{stage}_ms": round(seconds * 1e3, 1) for stage, seconds in stages.seconds.items()},
    }
    logger.info("request", extra={"fields": {name: value for name, value in fields.items() if value is not None}})

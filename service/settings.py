"""The environment, read once: every setting is a variable `KQV_<NAME>`, with its unit in its name."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from kqv.store import BUILT_IN, DEFAULT_STORE

MIB = 1 << 20
ORIGIN = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+")


def split_commas(value: object) -> object:
    """An environment variable's list, `minilm,/srv/gpt2`, as a tuple."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """Raise `ValueError` for anything but the origin of a page, as browsers send it."""
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is no origin; it looks like https://example.org or http://localhost:3000")
    return origins


def check_ancestors(ancestors: tuple[str, ...]) -> tuple[str, ...]:
    """Raise `ValueError` for what a policy's frame-ancestors would not take, or would take for more than is meant."""
    check_origins(tuple(each for each in ancestors if each not in ("'self'", "'none'")))
    return ancestors


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_commas)]


class Settings(BaseSettings):
    """How the service runs. The docstring under each field is its help."""

    # What stands in a wrong setting may be a secret.
    model_config = SettingsConfigDict(env_prefix="KQV_", use_attribute_docstrings=True, frozen=True, hide_input_in_errors=True)

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 for any free one."""
    models: Names = Field(default=(*BUILT_IN,), min_length=1)
    """Models to load, by name or by directory, separated by commas; the first one is the default."""
    store: Path = DEFAULT_STORE
    """Where pulled models are kept."""
    device: str = "auto"
    """Device that the models run on, as torch names it; "auto" is a GPU where there is one."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights in memory."""
    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Batches that run side by side; "auto" is one for each core, up to 8, and one that feeds a GPU."""
    threads: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """CPU threads of each worker; "auto" divides the cores. Who comes alone has those of idle workers too, where that is faster."""
    api_keys: SecretStr | None = None
    """Keys that are let in, as NAME:KEY or NAME:sha256:DIGEST, separated by commas; with neither these nor a file, everyone is."""
    api_keys_file: Path | None = None
    """A file of such keys, one a line; it is read again when it changes."""
    embed_secret: SecretStr | None = None
    """What signs embed tokens, the same on all replicas: 32 characters or more; of several, between commas, the first."""
    public_paths: Names = (
        "/",
        "/embed",
        "/livez",
        "/readyz",
        "/v2/health/live",
        "/v2/health/ready",
        "/docs",
        "/redoc",
        "/openapi.json",
    )
    """Paths that GET and HEAD may see without a key, each exactly; a page's own scripts and styles need none either."""
    max_key_requests: int = Field(default=256, ge=1)
    """Requests of one key that may be under way; a further one is answered 429."""
    cors_origins: Annotated[Names, AfterValidator(check_origins)] = ()
    """Origins whose pages may call the service from a browser, such as https://example.org, separated by commas."""
    frame_ancestors: Annotated[Names, AfterValidator(check_ancestors)] = Field(default=("'self'",), min_length=1)
    """Pages that may show /embed in a frame: 'self', 'none', or origins such as https://example.org, separated by commas."""
    max_headers: int = Field(default=100, ge=1)
    """Most headers of a request; one with more is answered 431."""
    max_header_bytes: int = Field(default=32 * 1024, ge=1024)
    """Longest request line and headers together; longer ones are answered 431."""
    head_timeout_s: float = Field(default=10.0, gt=0)
    """How long a request line and its headers may take to come; then the connection is closed."""
    body_timeout_s: float = Field(default=30.0, gt=0)
    """How long a body may take to come; then the request is answered 408."""
    max_bodies_bytes: int = Field(default=256 * MIB, ge=1)
    """Bytes of all the bodies that are being read or worked on; a request that would exceed it is answered 429."""
    max_json_values: int = Field(default=4_000_000, ge=1)
    """Most values, of all kinds and at all depths, in a body of JSON; one with more is answered 413."""
    max_body_bytes: int = Field(default=16 * MIB, ge=1)
    """Longest request body; a longer one is answered 413."""
    max_sequences: int = Field(default=256, ge=1)
    """Most sequences of one request."""
    max_answer_bytes: int = Field(default=256 * MIB, ge=1)
    """Longest answer; a request for more is answered 413 before anything is computed."""
    max_attend_numbers: int = Field(default=1 << 26, ge=1)
    """Most numbers that one /v1/attend may hold in memory: its maps and the projections that it draws."""
    max_waiting_tokens: int = Field(default=1 << 15, ge=1)
    """Tokens that may wait for the device; a request that would exceed it is answered 429."""
    max_waiting_sequences: int = Field(default=2048, ge=1)
    """Sequences that may wait for the device; a request that would exceed it is answered 429."""
    max_batch_tokens: int = Field(default=1024, ge=1)
    """Tokens that go to the device together; a longer sequence goes alone."""
    max_batch_s: float = Field(default=0.4, gt=0)
    """Seconds that a batch may be expected to take, so that nobody waits long for a large model's; a longer sequence goes alone."""
    max_batch_cells: int = Field(default=1 << 26, ge=1)
    """Attention weights (queries × keys × heads × layers) that are looked at together; a larger sequence goes alone."""
    max_batch_answer_bytes: int = Field(default=64 * MIB, ge=1)
    """Answers, as they will be sent, that are made together; a larger one is made alone."""
    max_held_answer_bytes: int = Field(default=512 * MIB, ge=1)
    """Answers under way, from a request's admission until it is sent; one that would exceed it is answered 429."""
    request_timeout_ms: int = Field(default=60_000, ge=1)
    """How long a request may take whose caller gives no X-Request-Timeout-Ms."""
    inline_read_bytes: int = Field(default=4096, ge=0)
    """A body up to this length is read on the event loop; a longer one in a thread, so that it holds nobody up."""
    inline_encode_bytes: int = Field(default=MIB // 4, ge=0)
    """An answer predicted up to this length is encoded on the event loop; a longer one in a thread."""
    drain_s: float = Field(default=5.0, ge=0)
    """How long requests are still taken after SIGTERM, while /readyz tells the load balancer to go elsewhere."""
    graceful_shutdown_s: int = Field(default=30, ge=0)
    """How long requests under way may take to finish after that."""
    keep_alive_s: int = Field(default=75, ge=1)
    """How long an idle connection is kept; longer than the load balancer keeps it, which must be the one to close."""
    head_metrics: Names = ()
    """Diagnostics that are shown as metrics of every head, as MODEL/MEASURE, such as minilm/entropy, separated by commas."""
    head_metrics_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the sequences asked for without those diagnostics that are measured for the metrics alone, while nothing waits."""
    tracing_url: str | None = None
    """Where spans are sent, by OTLP over HTTP, such as http://collector:4318/v1/traces; needs kqv[tracing]. Off without it."""
    log_format: Literal["text", "json"] = "text"
    """One line an event: fields as name=value, or a JSON object."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severity that is logged; one line a request is at INFO."""

"""The app: everything put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from service.batching import Batcher, Limits
from service.dependencies import Service
from service.errors import add_handlers
from service.middleware import RequestMiddleware
from service.models import Models
from service.openapi import describe
from service.routes import analyze, attend, generate, health, models, tokenize
from service.settings import Settings

DESCRIPTION = """\
The K, Q and V of a transformer over HTTP: attention weights, outputs and per-head diagnostics of real models.

Every error is a problem document (RFC 9457). `X-Request-Id` is echoed, or made. `X-Request-Timeout-Ms` says how long you will wait.
`Server-Timing` says where the time went.
"""
TAGS = [
    {"name": "attention", "description": "What attention does, in a model and by itself."},
    {"name": "models", "description": "What is served, and how it reads text."},
    {"name": "health", "description": "For those who run it."},
]


def create_app(settings: Settings, served: Models) -> FastAPI:
    """The service over some models; what it serves may be loaded later."""
    limits = Limits(settings.max_waiting_tokens, settings.max_waiting_sequences, settings.max_batch_tokens)
    service = Service(settings, served, Batcher(limits))
    app = FastAPIOffline(
        title="kqv",
        version=installed_version(),
        description=DESCRIPTION,
        openapi_tags=TAGS,
        redirect_slashes=False,
        lifespan=partial(run_batcher, service.batcher),
    )
    app.state.service = service
    app.add_middleware(RequestMiddleware)
    add_handlers(app)
    for module in (analyze, attend, generate, tokenize, models, health):
        app.include_router(module.router)
    app.openapi = partial(describe, app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def run_batcher(batcher: Batcher, app: FastAPI) -> AsyncIterator[None]:
    """The device thread works while the app runs, and finishes what waits before it stops."""
    batcher.start()
    yield
    await batcher.close()


def installed_version() -> str:
    """As the package's metadata has it; a source tree that is not installed has none."""
    try:
        return version("kqv")
    except PackageNotFoundError:
        return "0"

"""The app: everything put together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from service.batching.batcher import Batcher, Limits, Watcher
from service.batching.queue import Size
from service.batching.workers import make_crew
from service.errors import add_handlers
from service.http.auth import Admit, Keys, describe_keys
from service.http.bodies import Straight
from service.http.door import Door
from service.http.embed_tokens import EmbedTokens
from service.http.middleware import Bound, Observe, Observers, Shield
from service.models import Models
from service.observing.heads import Heads
from service.observing.logs import log_request
from service.observing.metrics import Metrics
from service.observing.tracing import Tracing
from service.routes import (
    analyze,
    attend,
    dashboard,
    diagnostics,
    embed_tokens,
    embeddings,
    generate,
    health,
    metrics,
    models,
    oip,
    tokenize,
)
from service.settings import Settings
from service.state import Answers, Service
from service.wire.examples import add_examples
from service.wire.openapi import describe
from service.work.dependencies import get_caller
from service.work.threads import make_executor

DESCRIPTION = """\
The K, Q and V of a transformer over HTTP: attention weights, outputs and per-head diagnostics of real models.

Every error is a problem document (RFC 9457), but on the routes of other protocols, which have their own. `X-Request-Id` is echoed,
or made. `X-Request-Timeout-Ms` says how long you will wait.
`Server-Timing` says where the time went.
"""
TAGS = [
    {"name": "attention", "description": "What attention does, in a model and by itself."},
    {"name": "models", "description": "What is served, and how it reads text."},
    {"name": "protocols", "description": "The same for clients of OpenAI's embeddings and of Triton (Open Inference Protocol v2)."},
    {"name": "health", "description": "For those who run it."},
]


MODULES = (analyze, diagnostics, attend, generate, tokenize, models, embeddings, embed_tokens, oip, health, metrics, dashboard)
CORS_HEADERS = ("Authorization", "Content-Type", "X-Request-Id", "X-Request-Timeout-Ms", "Traceparent", "Tracestate")
CORS_EXPOSED = ("X-Request-Id", "Server-Timing", "Retry-After", "Inference-Header-Content-Length")


OWN_TELEMETRY = {"tracing": False, "metrics": False, "logs": False}
"""`service.observing` tells of requests. FastAPI, since 0.165, would tell of them a second time, and asks the environment three
times a request whether it should."""


def create_app(settings: Settings, served: Models, tracing: Tracing | None = None) -> FastAPI:
    """The service over some models; what it serves may be loaded later. Raises `InputError` for settings that can't be followed."""
    service = make_service(settings, served)
    app = FastAPIOffline(
        title="kqv",
        version=installed_version(),
        description=DESCRIPTION,
        openapi_tags=TAGS,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,  # what generated clients call the operation
        lifespan=partial(run, service, tracing),
        telemetry=OWN_TELEMETRY,
    )
    app.state.service = service
    add_handlers(app)
    for module in MODULES:
        app.include_router(module.router)
        service.metrics.expect(module.router.routes)
    dashboard.mount(app)
    observers = (log_request, service.metrics.observe, *([tracing.observe] if tracing else []))
    add_middleware(app, service, observers)
    app.state.door = Door(service, waiting_routes(), observers)
    app.openapi = partial(describe_app, app, service)  # type: ignore[method-assign]
    return app


def describe_app(app: FastAPI, service: Service) -> dict[str, Any]:
    """The OpenAPI document: it asks for a key where this server does."""
    document = describe(app)
    if service.keys.required:
        describe_keys(document, frozenset(service.settings.public_paths))
    add_examples(document)
    return document


def make_service(settings: Settings, served: Models) -> Service:
    """All that outlives a request."""
    figures = Metrics()
    heads = Heads(settings, served)
    figures.registry.register(heads)
    batcher, answers = make_batcher(settings, served, figures), Answers(settings.max_held_answer_bytes)
    service = Service(settings, served, batcher, answers, figures, heads, Keys(settings), EmbedTokens(settings))
    figures.follow(lambda: service.batcher.load, lambda: service.ready, lambda: service.draining)
    return service


def add_middleware(app: FastAPI, service: Service, observers: Observers) -> None:
    """What surrounds the routes, from the inside out."""
    settings = service.settings
    app.add_middleware(Straight, routes=[route for module in MODULES for route in module.router.routes])
    if service.keys.required:
        app.add_middleware(Admit, keys=service.keys, tokens=service.embed_tokens, settings=settings, assets=assets(app))
    app.add_middleware(Bound, settings=settings)
    app.add_middleware(Shield)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=CORS_HEADERS,
            expose_headers=CORS_EXPOSED,
        )
    app.add_middleware(Observe, observers=observers)


def waiting_routes() -> list[APIRoute]:
    """Those whose requests wait for the device."""
    routes = [route for module in MODULES for route in module.router.routes if isinstance(route, APIRoute)]
    return [route for route in routes if any(each.call is get_caller for each in route.dependant.dependencies)]


def assets(app: FastAPI) -> frozenset[str]:
    """The paths of the files that the pages are made of."""
    mounts = [(route.path, route.app) for route in app.routes if isinstance(route, Mount)]
    folders = [(path, Path(files.directory)) for path, files in mounts if isinstance(files, StaticFiles) and files.directory]
    return frozenset(
        f"{path}/{file.relative_to(folder)}" for path, folder in folders for file in folder.rglob("*") if file.is_file()
    )


def make_batcher(settings: Settings, served: Models, watcher: Watcher) -> Batcher:
    """The batcher that the settings describe."""
    batch = Size(settings.max_batch_tokens, settings.max_batch_cells, settings.max_batch_answer_bytes)
    limits = Limits(settings.max_waiting_tokens, settings.max_waiting_sequences, batch, settings.max_batch_s)
    crew = make_crew(settings.workers, settings.threads, settings.device)
    return Batcher(limits, crew, watcher, probe=served.probe)


@asynccontextmanager
async def run(service: Service, tracing: Tracing | None, app: FastAPI) -> AsyncIterator[None]:
    """The workers work while the app runs, and finish what waits before they stop."""
    asyncio.get_running_loop().set_default_executor(make_executor())
    service.batcher.start()
    yield
    await service.batcher.close()
    if tracing:
        await asyncio.to_thread(tracing.close)


def installed_version() -> str:
    """As the package's metadata has it; a source tree that is not installed has none."""
    try:
        return version("kqv")
    except PackageNotFoundError:
        return "0"

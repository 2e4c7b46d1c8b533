"""What routes ask for by type."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Annotated

from fastapi import Depends, Header, Request

from service.auth import Keys
from service.batching import Batcher
from service.caller import Answers, Caller
from service.embed_tokens import EmbedTokens, Grant
from service.heads import Heads
from service.metrics import Metrics
from service.models import Models
from service.oip.statistics import ModelStatistics
from service.settings import Settings


@dataclass
class Service:
    """All that outlives a request."""

    settings: Settings
    models: Models
    batcher: Batcher
    answers: Answers
    metrics: Metrics
    heads: Heads
    keys: Keys
    embed_tokens: EmbedTokens
    draining: bool = False
    """About to stop: requests are still taken, but no new ones should be sent here."""
    statistics: dict[str, ModelStatistics] = field(default_factory=lambda: defaultdict(ModelStatistics))
    """What has been asked by Open Inference Protocol, by model."""

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return self.models.ready and not self.draining


# Coroutines, although they await nothing: FastAPI would run plain functions in a thread, which takes longer than they do.


async def get_service(request: Request) -> Service:
    """The service that the app was made with; where an embed token asks, with the models that it grants alone."""
    service: Service = request.app.state.service
    grant: Grant | None = getattr(request.state, "grant", None)
    if grant is None or grant.models is None:
        return service
    return replace(service, models=service.models.only(grant.models))


ServiceDependency = Annotated[Service, Depends(get_service)]


async def get_caller(
    request: Request,
    service: ServiceDependency,
    x_request_timeout_ms: Annotated[int | None, Header(ge=1, le=86_400_000, description="How long the caller will wait.")] = None,
) -> AsyncIterator[Caller]:
    """The caller, with the deadline that the header or the settings give; it leaves when the answer has been sent."""
    timeout_ms = x_request_timeout_ms or service.settings.request_timeout_ms
    deadline = asyncio.get_running_loop().time() + timeout_ms / 1e3
    caller = Caller(request, timeout_ms, deadline, service.batcher, service.answers)
    try:
        yield caller
    finally:
        caller.leave()


CallerDependency = Annotated[Caller, Depends(get_caller)]


async def check_ready(service: ServiceDependency) -> None:
    """Raise `UnavailableError` while the models are being loaded."""
    service.models.all()

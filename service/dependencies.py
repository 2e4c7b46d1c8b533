"""What routes ask for by type.

Coroutines, although they await nothing: FastAPI would run plain functions in a thread, which takes longer than they do. And few of
them: FastAPI finds out anew for every request what each one needs.
"""

import asyncio
from dataclasses import replace
from typing import Annotated

from fastapi import Depends, Header, Request

from service.caller import Caller
from service.embed_tokens import Grant
from service.state import Service


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
    x_request_timeout_ms: Annotated[int | None, Header(ge=1, le=86_400_000, description="How long the caller will wait.")] = None,
) -> Caller:
    """The caller, with the deadline that the header or the settings give."""
    service = await get_service(request)
    timeout_ms = x_request_timeout_ms or service.settings.request_timeout_ms
    return Caller(request, service, timeout_ms, asyncio.get_running_loop().time() + timeout_ms / 1e3)


CallerDependency = Annotated[Caller, Depends(get_caller)]


async def check_ready(service: ServiceDependency) -> None:
    """Raise `UnavailableError` while the models are being loaded."""
    service.models.all()

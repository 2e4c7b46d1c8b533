"""What routes ask for by type.

They take the request and nothing else, so that a `JsonRoute` can call them itself. And they are coroutines, although they await
nothing: where FastAPI calls them, it would run plain functions in a thread, which takes longer than they do.
"""

import asyncio
from dataclasses import replace
from typing import Annotated

from fastapi import Depends, Request

from service.errors import ForbiddenError
from service.http.embed_tokens import Grant
from service.state import Service
from service.work.caller import TIMEOUT_HEADER, Caller, read_timeout_ms


async def get_service(request: Request) -> Service:
    """The service that the app was made with; where an embed token asks, with the models that it grants alone.

    Raises `ForbiddenError` for a token that grants none of those that are served, as after a restart with others.
    """
    service: Service = request.app.state.service
    grant: Grant | None = getattr(request.state, "grant", None)
    if grant is None or grant.models is None:
        return service
    models = service.models.only(grant.models)
    if service.models.ready and not models.ready:
        names = ", ".join(grant.models)
        raise ForbiddenError(f"this embed token is for {names} alone, and no such model is served; ask for another token")
    return replace(service, models=models)


ServiceDependency = Annotated[Service, Depends(get_service)]


async def get_caller(request: Request) -> Caller:
    """The caller, with the deadline that the header or the settings give. Raises `InvalidError` for what is no such time."""
    service = await get_service(request)
    timeout_ms = read_timeout_ms(request.headers.get(TIMEOUT_HEADER)) or service.settings.request_timeout_ms
    return Caller(request, service, timeout_ms, asyncio.get_running_loop().time() + timeout_ms / 1e3)


CallerDependency = Annotated[Caller, Depends(get_caller)]


async def check_ready(request: Request) -> None:
    """Raise `UnavailableError` while the models are being loaded."""
    (await get_service(request)).models.all()

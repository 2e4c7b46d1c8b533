"""Whether the process lives, and whether it wants requests."""

from fastapi import APIRouter

from service.errors import UnavailableError
from service.wire.answers import Health
from service.wire.openapi import problems
from service.work.dependencies import ServiceDependency

router = APIRouter(tags=["health"])


@router.get("/livez", summary="Is the process alive?")
async def live() -> Health:
    """Always 200, while models load and while the service drains: to restart it would not help."""
    return Health()


@router.get("/readyz", summary="Should requests be sent here?", responses=problems(503))
async def ready(service: ServiceDependency) -> Health:
    """503 while the models are being loaded, and from the moment that the process is told to stop."""
    service.models.all()
    if service.draining or service.batcher.broken:
        raise UnavailableError("this replica is about to stop", retry_after_s=1)
    return Health()

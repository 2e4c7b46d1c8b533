"""What Prometheus reads."""

from fastapi import APIRouter, Response

from service.observing.metrics import PLAIN
from service.work.dependencies import ServiceDependency
from service.work.threads import run_off_loop

router = APIRouter(tags=["health"])


@router.get("/metrics", include_in_schema=False)
async def metrics(service: ServiceDependency) -> Response:
    """Every figure, in Prometheus' text format."""
    return Response(await run_off_loop(True, service.metrics.text), headers={"content-type": PLAIN})

"""Diagnostics of heads, for tools that draw tables."""

from functools import partial

from fastapi import APIRouter, Response

from service.http.bodies import JsonRoute
from service.wire.answers import RowsAnswer
from service.wire.encoding import Part
from service.wire.openapi import PROBLEMS_OF_WORK, problems
from service.wire.requests import RowsRequest
from service.wire.rows import FORM, read_rows, rows_of
from service.wire.sending import PartsResponse
from service.work.analyzing import analyze
from service.work.dependencies import CallerDependency
from service.work.threads import run_off_loop

router = APIRouter(prefix="/v1", tags=["attention"], route_class=JsonRoute)


@router.post(
    "/diagnostics", summary="Measure heads, in flat rows", response_model=RowsAnswer, responses=problems(404, *PROBLEMS_OF_WORK)
)
async def list_diagnostics(body: RowsRequest, caller: CallerDependency) -> Response:
    """What `/v1/analyze` calls diagnostics, a row each sequence, layer, head and measure: for Grafana, or for a spreadsheet."""
    stages, service = caller.stages, caller.service
    model = service.models.get(body.model)
    found = await analyze(partial(read_rows, body, model, service.settings), model, FORM, caller)

    def encode() -> list[Part]:
        rows = [*rows_of(found.analyses)]
        return FORM.encode({"model": model.id, "rows": rows, "usage": found.usage, "timing": stages.timing()})

    with stages.measure("encode"):
        parts = await run_off_loop(found.is_large, encode)
    return PartsResponse(parts, FORM.media_type, stages.header())

"""A model's forward pass, with its attention."""

from functools import partial

from fastapi import APIRouter, Response

from service.http.bodies import TensorRoute
from service.wire.answers import AnalyzeAnswer
from service.wire.encoding import analysis_fields, choose_form
from service.wire.openapi import PROBLEMS_OF_WORK, problems, tensor_file, tensor_file_body
from service.wire.requests import AnalyzeRequest
from service.wire.sending import PartsResponse
from service.work.analyzing import analyze as run_analysis
from service.work.dependencies import CallerDependency
from service.work.reading import read_analysis
from service.work.threads import run_off_loop

router = APIRouter(prefix="/v1", tags=["attention"], route_class=TensorRoute)


@router.post(
    "/analyze",
    summary="Analyze texts",
    response_model=AnalyzeAnswer,
    responses=problems(404, 406, *PROBLEMS_OF_WORK) | tensor_file(),
    openapi_extra=tensor_file_body(),
)
async def analyze(body: AnalyzeRequest, caller: CallerDependency) -> Response:
    """Run a model over texts, token ids or embeddings, and see what its attention does.

    Without further fields the answer has all attention maps, all per-head diagnostics and the hidden states. The numbers of a
    sequence don't depend on what else is in the request, or on the server. An encoder–decoder without a `target` reads its own
    greedy text.
    """
    form, stages = choose_form(caller.request.headers, body.encoding), caller.stages
    model = caller.service.models.get(body.model)
    found = await run_analysis(partial(read_analysis, body, model, caller.service.settings), model, form, caller)
    with stages.measure("encode"):
        answer = {
            "model": model.id,
            "results": [analysis_fields(analysis) for analysis in found.analyses],
            "usage": found.usage,
            "timing": stages.timing(),
        }
        parts = await run_off_loop(found.is_large, form.encode, answer)
    return PartsResponse(parts, form.media_type, stages.header())

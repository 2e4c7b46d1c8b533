"""A model's forward pass, with its attention."""

from fastapi import APIRouter, Response

from service.answers import AnalyzeAnswer
from service.bodies import JsonRoute
from service.dependencies import CallerDependency, ServiceDependency
from service.encoding import analysis_fields, encode
from service.generating import complete
from service.openapi import PROBLEMS_OF_WORK, problems
from service.reading import read_analysis, size_up
from service.requests import AnalyzeRequest
from service.stages import Stages
from service.threads import run_off_loop

router = APIRouter(prefix="/v1", tags=["attention"], route_class=JsonRoute)


@router.post("/analyze", summary="Analyze texts", response_model=AnalyzeAnswer, responses=problems(404, *PROBLEMS_OF_WORK))
async def analyze(body: AnalyzeRequest, service: ServiceDependency, caller: CallerDependency) -> Response:
    """Run a model over texts, token ids or embeddings, and see what its attention does.

    Without further fields the answer has all attention maps, all per-head diagnostics and the hidden states. The numbers of a
    sequence don't depend on what else is in the request, or on the server. An encoder–decoder without a `target` reads its own
    greedy text.
    """
    settings, stages = service.settings, Stages()
    model = service.models.get(body.model)
    with stages.measure("tokenize"):
        jobs = await run_off_loop(caller.request.state.is_long, read_analysis, body, model, settings)
    jobs, written = await complete(jobs, model, service.batcher, caller)
    asked = size_up(jobs, model, settings)
    done = await caller.wait_for(service.batcher.submit(model.analyze_jobs, asked.jobs, asked.tokens))
    stages.took([[*before, each] for before, each in zip(written, done, strict=True)])
    with stages.measure("encode"):
        answer = {
            "model": model.id,
            "results": [analysis_fields(each.result) for each in done],
            "usage": {"sequences": len(done), "tokens": sum(asked.tokens)},
            "timing": stages.timing(),
        }
        content = await run_off_loop(asked.answer_bytes > settings.inline_encode_bytes, encode, answer)
    return Response(content, media_type="application/json", headers=stages.header())

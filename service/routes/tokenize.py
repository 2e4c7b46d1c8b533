"""How a model reads text."""

from fastapi import APIRouter, Request, Response

from service.http.bodies import JsonRoute
from service.http.stages import Stages
from service.wire.answers import TokenizeAnswer
from service.wire.encoding import encode
from service.wire.openapi import PROBLEMS_OF_BODIES, problems
from service.wire.requests import TokenizeRequest
from service.work.dependencies import ServiceDependency
from service.work.reading import read_texts
from service.work.threads import run_off_loop

router = APIRouter(prefix="/v1", tags=["models"], route_class=JsonRoute)


@router.post(
    "/tokenize", summary="Tokenize texts", response_model=TokenizeAnswer, responses=problems(404, 503, *PROBLEMS_OF_BODIES)
)
async def tokenize(body: TokenizeRequest, service: ServiceDependency, request: Request) -> Response:
    """Token ids, token strings and character offsets, with the special tokens that the model was trained with."""
    model = service.models.get(body.model)
    stages: Stages = request.state.stages
    with stages.measure("tokenize"):
        results = await run_off_loop(request.state.is_long, read_texts, body, model, service.settings)
    usage = {"sequences": len(results), "tokens": sum(len(result["tokens"]) for result in results)}
    stages.amounts_to(model.id, **usage)
    answer = {"model": model.id, "results": results, "usage": usage}
    return Response(encode(answer), media_type="application/json")

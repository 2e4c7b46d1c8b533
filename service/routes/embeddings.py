"""Vectors of texts, for OpenAI's clients."""

from functools import partial

from fastapi import APIRouter, Response

from service.http.bodies import JsonRoute
from service.wire.embeddings import EmbeddingsAnswer, EmbeddingsRequest, embedding_fields, read_embeddings
from service.wire.encoding import BASE64, LISTS
from service.wire.openapi import openai_errors
from service.wire.sending import PartsResponse
from service.work.analyzing import analyze
from service.work.dependencies import CallerDependency
from service.work.threads import run_off_loop

router = APIRouter(prefix="/v1", tags=["protocols"], route_class=JsonRoute)


@router.post("/embeddings", summary="Embed texts", response_model=EmbeddingsAnswer, responses=openai_errors())
async def create_embeddings(body: EmbeddingsRequest, caller: CallerDependency) -> Response:
    """A vector for each text, as OpenAI's API has it, so that its clients work unchanged; errors too are in its form.

    The vector is what `/v1/analyze` calls `pooled`: the mean over the tokens, unless the checkpoint says otherwise. Token ids are
    the model's own.
    """
    stages, form = caller.stages, LISTS if body.encoding_format == "float" else BASE64
    model = caller.service.models.get(body.model)
    found = await analyze(partial(read_embeddings, body, model, caller.service.settings), model, form, caller)
    with stages.measure("encode"):
        answer = {
            "object": "list",
            "data": [embedding_fields(index, each, body.encoding_format) for index, each in enumerate(found.analyses)],
            "model": model.id,
            "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
        }
        parts = await run_off_loop(found.is_large, LISTS.encode, answer)
    return PartsResponse(parts, LISTS.media_type, stages.header())

"""Attention itself, step by step."""

from fastapi import APIRouter, Depends, Response

from service.http.bodies import TensorRoute
from service.wire.answers import AttendAnswer
from service.wire.encoding import choose_form
from service.wire.openapi import PROBLEMS_OF_WORK, problems, tensor_file, tensor_file_body
from service.wire.requests import AttendRequest
from service.wire.sending import PartsResponse
from service.work.attending import Attend
from service.work.dependencies import CallerDependency, check_ready
from service.work.reading import read_attention
from service.work.threads import run_off_loop

router = APIRouter(prefix="/v1", tags=["attention"], route_class=TensorRoute, dependencies=[Depends(check_ready)])


@router.post(
    "/attend",
    summary="Attend, step by step",
    response_model=AttendAnswer,
    responses=problems(406, *PROBLEMS_OF_WORK) | tensor_file(),
    openapi_extra=tensor_file_body(),
)
async def attend(body: AttendRequest, caller: CallerDependency) -> Response:
    """Scaled dot-product attention on your own tensors, with every step shown.

    scores = Q·Kᵀ, scaled_scores = scores · scale + bias, weights = softmax(scaled_scores), head_outputs = weights · V,
    output = Concat(head_outputs) · W_O. Give `q`, `k` and `v`, or vectors `x` with `num_heads` and the projections.
    """
    form, stages, service = choose_form(caller.request.headers, body.encoding), caller.stages, caller.service
    with stages.measure("tokenize"):
        asked = await run_off_loop(caller.request.state.is_long, read_attention, body, form, service.settings)
    stages.amounts_to(None, len(asked.jobs), asked.tokens)
    done = await caller.run(Attend(service.models.get(None).device), asked)
    stages.took([done])
    with stages.measure("encode"):
        parts = await run_off_loop(asked.answer_bytes > service.settings.inline_encode_bytes, form.encode, done[0].result)
    return PartsResponse(parts, form.media_type, stages.header())

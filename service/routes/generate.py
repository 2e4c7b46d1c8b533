"""Texts that a model goes on with, and what it looks at while it does."""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Response

from service.http.bodies import TensorRoute
from service.http.stages import Stages
from service.wire.answers import GenerateAnswer
from service.wire.encoding import JSON_FORMS, Form, Part, choose_form, generated_fields
from service.wire.negotiation import negotiate
from service.wire.openapi import PROBLEMS_OF_WORK, event_stream, problems, tensor_file, tensor_file_body
from service.wire.requests import GenerateRequest
from service.wire.sending import PartsResponse
from service.work.caller import Caller
from service.work.dependencies import CallerDependency
from service.work.generating import Writer
from service.work.reading import read_generation
from service.work.streaming import EventStream, Pieces, event, token_event, with_error
from service.work.threads import run_off_loop

router = APIRouter(prefix="/v1", tags=["attention"], route_class=TensorRoute)

TOKEN = '{"index":0,"token_id":262,"token":"Ġthe","text":" the"}'
DONE = '{"model":"gpt2","results":[{"text":" the","token_ids":[262],"tokens":["Ġthe"],"finish_reason":"length"}],"usage":{}}'


@router.post(
    "/generate",
    summary="Generate texts",
    response_model=GenerateAnswer,
    responses=problems(404, 406, *PROBLEMS_OF_WORK) | tensor_file(event_stream(token=TOKEN, done=DONE)),
    openapi_extra=tensor_file_body(),
)
async def generate(body: GenerateRequest, caller: CallerDependency) -> Response:
    """Let a model go on with texts or token ids, and see what it looks at while it chooses each token.

    With `stream` the answer is server-sent events: a `token` for each token of each sequence, then one `done`, whose data is the
    answer without `stream`; an `error` in its place holds a problem document. All that can be refused is refused before the first.
    """
    form, stages, service = choose_form_of_text(body, caller), caller.stages, caller.service
    model = service.models.get(body.model)
    with stages.measure("tokenize"):
        asked = await run_off_loop(caller.request.state.is_long, read_generation, body, model, form, service.settings)
    stages.amounts_to(model.id, len(asked.jobs), asked.tokens, sum(each.source.truncated > 0 for each in asked.jobs))
    is_large = asked.answer_bytes > service.settings.inline_encode_bytes
    caller.hold(asked.answer_bytes)
    writer = Writer(model, asked.jobs, asked.sizes, service.batcher)
    if body.stream:
        events = stream(writer, caller, stages, form, is_large)
        return EventStream(with_error(events, caller.request.state.request_id), writer.stop)
    await writer.finish(caller)
    parts = await encode_answer(writer, stages, form, is_large)
    return PartsResponse(parts, form.media_type, stages.header())


def choose_form_of_text(body: GenerateRequest, caller: Caller) -> Form:
    """The form of the answer, or of the data of each event. Raises `NotAcceptableError`."""
    if not body.stream:
        return choose_form(caller.request.headers, body.encoding)
    negotiate(caller.request.headers, ["text/event-stream"], '; leave "stream" out for another form')
    return JSON_FORMS[body.encoding]


async def stream(writer: Writer, caller: Caller, stages: Stages, form: Form, is_large: bool) -> AsyncIterator[bytes]:
    """An event for each token, and the answer as the last one."""
    tokenizer = writer.model.tokenizer
    pieces = [Pieces(generation.sampling.stop) for generation in writer.generations]
    async for index, step in writer.write(caller):
        token = piece = None
        if tokenizer is not None:
            token = tokenizer.token(step.token_id)
            piece = pieces[index].take(step.text, is_whole=step.finish_reason is not None)
        yield await run_off_loop(is_large, token_event, index, step, token, piece, form)
    yield event("done", *await encode_answer(writer, stages, form, is_large))


async def encode_answer(writer: Writer, stages: Stages, form: Form, is_large: bool) -> list[Part]:
    """The answer of generations that have ended."""
    stages.took(writer.runs)
    with stages.measure("encode"):
        return await run_off_loop(is_large, lambda: form.encode(answer_fields(writer, stages)))


def answer_fields(writer: Writer, stages: Stages) -> dict[str, Any]:
    """The answer by its fields."""
    generated = [writer.model.finish(generation) for generation in writer.generations]
    new_tokens = sum(len(each.token_ids) for each in generated)
    stages.tokens = writer.prompt_tokens + new_tokens
    return {
        "model": writer.model.id,
        "results": [generated_fields(each) for each in generated],
        "usage": {"sequences": len(generated), "tokens": writer.prompt_tokens + new_tokens, "new_tokens": new_tokens},
        "timing": stages.timing(),
    }

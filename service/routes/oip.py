"""Open Inference Protocol v2, for Triton's clients."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from kqv import Model
from service.errors import ForbiddenError, NotOfferedError, UnknownVersionError
from service.http.bodies import max_values, parse_json, read_body
from service.oip.answers import (
    IndexedModel,
    InferAnswer,
    Live,
    ModelConfiguration,
    ModelMetadata,
    Ready,
    ServerMetadata,
    StatisticsList,
)
from service.oip.outputs import write_answer
from service.oip.reading import read_jobs, read_timeout_us, read_wanted
from service.oip.requests import HEADER, IndexRequest, InferRequest, InferRoute
from service.oip.signature import VERSION, describe_config, describe_model
from service.routes.health import ready as check_accepting
from service.state import Service
from service.wire.encoding import FILE, LISTS
from service.wire.openapi import PROBLEMS_OF_WORK, infer_answer, infer_body, open_inference_errors
from service.wire.sending import PartsResponse
from service.work.analyzing import analyze
from service.work.caller import Caller
from service.work.dependencies import CallerDependency, ServiceDependency, get_service
from service.work.threads import run_off_loop

router = APIRouter(prefix="/v2", tags=["protocols"], route_class=InferRoute)
TIMEOUT_PARAMETER = "parameters.timeout, in microseconds,"
"""As an error calls it: the protocol's own, which can make the time shorter than `X-Request-Timeout-Ms` or the server do."""
EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "parameters", "statistics"]


async def get_model(name: str, request: Request) -> Model:
    """The model of the path. Raises `UnknownModelError`, `UnknownVersionError`."""
    model = (await get_service(request)).models.get(name)
    version = request.path_params.get("version", VERSION)
    if version != VERSION:
        raise UnknownVersionError(f"{name} has one version, {VERSION!r}, and no {version!r}; leave /versions/{version} out")
    return model


ModelDependency = Annotated[Model, Depends(get_model)]


@router.get("", summary="Describe the server", responses=open_inference_errors())
async def describe_server(request: Request) -> ServerMetadata:
    """Its name, and the parts of the protocol that it speaks."""
    return ServerMetadata(name="kqv", version=request.app.version, extensions=EXTENSIONS)


@router.get("/health/live", summary="Is the process alive? (protocol)", responses=open_inference_errors())
async def server_live() -> Live:
    """As `/livez`."""
    return Live()


@router.get("/health/ready", summary="Should requests be sent here? (protocol)", responses=open_inference_errors(503))
async def server_ready(service: ServiceDependency) -> Ready:
    """As `/readyz`."""
    await check_accepting(service)
    return Ready()


@router.get("/models/stats", summary="Count what was asked of all models", responses=open_inference_errors(503))
async def all_statistics(service: ServiceDependency) -> StatisticsList:
    """What has been asked of each model by this protocol since the server started."""
    return count(service, service.models.all())


@router.get("/models/{name}/versions/{version}/ready", include_in_schema=False)
@router.get("/models/{name}/ready", summary="Is a model ready?", responses=open_inference_errors(404, 503))
async def model_ready(model: ModelDependency, service: ServiceDependency) -> Ready:
    """As `/readyz`, for a model that there is."""
    await check_accepting(service)
    return Ready()


@router.get("/models/{name}/versions/{version}", include_in_schema=False)
@router.get("/models/{name}", summary="Describe a model's tensors", responses=open_inference_errors(404, 503))
async def model_metadata(model: ModelDependency) -> ModelMetadata:
    """What it takes and gives. Its only version is "1", whose paths, `/v2/models/{name}/versions/1/…`, say the same."""
    return ModelMetadata.model_validate(describe_model(model))


@router.get("/models/{name}/versions/{version}/config", include_in_schema=False)
@router.get("/models/{name}/config", summary="Describe a model's configuration", responses=open_inference_errors(404, 503))
async def model_config(model: ModelDependency) -> ModelConfiguration:
    """The same in Triton's terms."""
    return ModelConfiguration.model_validate(describe_config(model))


@router.get("/models/{name}/versions/{version}/stats", include_in_schema=False)
@router.get("/models/{name}/stats", summary="Count what was asked of a model", responses=open_inference_errors(404, 503))
async def model_statistics(model: ModelDependency, service: ServiceDependency) -> StatisticsList:
    """What has been asked of it by this protocol since the server started."""
    return count(service, [model])


def count(service: Service, models: Sequence[Model]) -> StatisticsList:
    return StatisticsList.model_validate({"model_stats": [service.statistics[model.id].describe(model.id) for model in models]})


@router.post(
    "/repository/index",
    summary="List the models (protocol)",
    responses=open_inference_errors(400, 413, 415, 503),
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": IndexRequest.model_json_schema()}}}},
)
async def repository_index(request: Request, service: ServiceDependency) -> list[IndexedModel]:
    """Every model that is served. All of them are ready, whether or not the body asks for those alone."""
    content = await read_body(request)
    if content:
        parse_json(IndexRequest, content, max_values(request))
    return [IndexedModel(name=model.id, version=VERSION) for model in service.models.all()]


@router.post("/models/{name}/versions/{version}/infer", include_in_schema=False)
@router.post(
    "/models/{name}/infer",
    summary="Run a model on tensors",
    response_model=InferAnswer,
    responses=open_inference_errors(404, *PROBLEMS_OF_WORK) | infer_answer(),
    openapi_extra=infer_body(),
)
async def infer(name: str, body: InferRequest, caller: CallerDependency) -> Response:
    """Run a model on a batch of texts, token ids or embeddings, and get tensors of what its attention does.

    An output is called by its path in a result of `/v1/analyze`, and has a place for each sequence in front; what is shorter than
    the longest sequence is filled up at the end. Tensors come and go as JSON, or as bytes after it (the binary extension).
    """
    stages, service = caller.stages, caller.service
    model = await get_model(name, caller.request)
    with service.statistics[model.id].measure(stages):
        wanted = read_wanted(body, model)
        caller = with_timeout(caller, read_timeout_us(body))
        has_binary = any(each.binary for each in wanted)
        form = FILE if all(each.binary for each in wanted) else LISTS
        read = partial(read_jobs, body, wanted, model, service.settings)
        found = await analyze(read, model, form, caller, is_padded=True)
        with stages.measure("encode"):
            parts = await run_off_loop(found.is_large, write_answer, model.id, body.id, wanted, found.analyses)
    headers = stages.header()
    if has_binary:
        headers[HEADER] = str(len(parts[0]))
    return PartsResponse(parts, "application/octet-stream" if has_binary else "application/json", headers)


def with_timeout(caller: Caller, timeout_us: int | None) -> Caller:
    """The caller, who waits no longer than it says."""
    if timeout_us is None or timeout_us >= caller.timeout_ms * 1000:
        return caller
    deadline = caller.deadline - caller.timeout_ms / 1e3 + timeout_us / 1e6
    return replace(caller, timeout_ms=math.ceil(timeout_us / 1000), deadline=deadline, timeout_setting=TIMEOUT_PARAMETER)


@router.post("/repository/models/{name}/load", include_in_schema=False)
@router.post("/repository/models/{name}/unload", include_in_schema=False)
async def refuse_loading(name: str) -> None:
    """Models are named when the server is started, and by nobody else."""
    raise ForbiddenError("models are loaded when the server starts, and not on request; name them in KQV_MODELS")


@router.api_route("/systemsharedmemory/{rest:path}", methods=["GET", "POST"], include_in_schema=False)
@router.api_route("/cudasharedmemory/{rest:path}", methods=["GET", "POST"], include_in_schema=False)
async def refuse_shared_memory(rest: str) -> None:
    """A server that reads the memory which a client names is not one to leave open."""
    raise NotOfferedError("there is no shared memory here; send tensors in the request, best as binary data")

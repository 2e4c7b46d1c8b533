"""What is served."""

from fastapi import APIRouter

from kqv import Model
from service.wire.answers import ModelCard, ModelList
from service.wire.openapi import problems
from service.work.dependencies import ServiceDependency

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", summary="List the models", responses=problems(503))
async def list_models(service: ServiceDependency) -> ModelList:
    """Every model that is served, the default one first."""
    return ModelList(data=[card(model) for model in service.models.all()])


@router.get("/{id}", summary="Describe a model", responses=problems(404, 503))
async def describe_model(id: str, service: ServiceDependency) -> ModelCard:
    """One model by its id."""
    return card(service.models.get(id))


def card(model: Model) -> ModelCard:
    config = model.config
    return ModelCard(
        id=model.id,
        architecture=config.architecture,
        layers=config.encoder_layers + config.decoder_layers,
        groups=config.groups,
        heads=config.num_heads,
        d_model=config.d_model,
        context=config.context,
        vocabulary_size=config.vocabulary_size,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        parameters=model.parameters,
        revision=model.revision,
    )

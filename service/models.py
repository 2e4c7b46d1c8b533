"""The models that are served."""

from collections.abc import Callable, Iterable

import torch

from kqv import CheckpointError, Model
from service.errors import UnavailableError, UnknownModelError


class Models:
    """The models by id, the default one first; none until they are published. To read them takes a while."""

    def __init__(self, read: Callable[[], Iterable[Model]]) -> None:
        self._read = read
        self._by_id: dict[str, Model] = {}

    def load(self) -> None:
        """Read and publish them all. Raises as `read` does."""
        self.publish(self.read())

    def read(self) -> dict[str, Model]:
        """All of them by id. Raises `CheckpointError` where one can't be read, or two have the same id."""
        by_id: dict[str, Model] = {}
        for model in self._read():
            if model.id in by_id:
                raise CheckpointError(f"two models are called {model.id}; rename the directory of one")
            by_id[model.id] = model
        return by_id

    def publish(self, by_id: dict[str, Model]) -> None:
        """Serve these from now on."""
        self._by_id = by_id

    def only(self, names: Iterable[str]) -> "Models":
        """The same without all the others; the default one is the first of them that there is."""
        wanted, some = {*names}, Models(self._read)
        some.publish({name: model for name, model in self._by_id.items() if name in wanted})
        return some

    def probe(self) -> None:
        """Compute something on each device; raises where one will never work again, as a GPU does after some errors."""
        for device in {model.device for model in self._by_id.values()}:
            torch.ones(1, device=device).add_(1).item()

    @property
    def ready(self) -> bool:
        """Whether they are loaded."""
        return bool(self._by_id)

    def all(self) -> list[Model]:
        """Every model, the default one first. Raises `UnavailableError` while they load."""
        if not self.ready:
            raise UnavailableError("the models are being loaded", retry_after_s=1)
        return list(self._by_id.values())

    def get(self, name: str | None) -> Model:
        """The model of that id, or the default one. Raises `UnknownModelError`, or `UnavailableError` while they load."""
        default = self.all()[0]
        model = default if name is None else self._by_id.get(name)
        if model is None:
            raise UnknownModelError(name or "", self._by_id)
        return model

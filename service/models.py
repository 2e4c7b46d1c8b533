"""The models that are served."""

from collections.abc import Callable, Iterable

from kqv import CheckpointError, Model
from service.errors import UnavailableError, UnknownModelError


class Models:
    """The models by id, the default one first; none until `load` has run, which takes a while."""

    def __init__(self, read: Callable[[], Iterable[Model]]) -> None:
        self._read = read
        self._by_id: dict[str, Model] = {}

    def load(self) -> None:
        """Read them all. Raises `CheckpointError` where one can't be read, or two have the same id."""
        by_id: dict[str, Model] = {}
        for model in self._read():
            if model.id in by_id:
                raise CheckpointError(f"two models are called {model.id}; rename the directory of one")
            by_id[model.id] = model
        self._by_id = by_id

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

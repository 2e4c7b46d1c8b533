"""What can go wrong in the engine, each message saying what to do about it.

KqvError
├── InputError          what was asked can't be answered: a bad value, shape or index
│   └── UnsupportedError    well formed, but this model or this version can't do it
└── CheckpointError     a model's files are missing, damaged, refused or contradict each other
"""


class KqvError(Exception):
    """Any error that kqv raises on purpose; its text is meant for the person who asked."""


class InputError(KqvError, ValueError):
    """The request can't be answered as asked.

    `location` is the path of the offending field, as in `("input", 3, "tokens")`; empty when no single field is at fault.
    """

    def __init__(self, message: str, location: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.location = location

    def within(self, *outer: str | int) -> "InputError":
        """The same error, seen from a place further out: `outer` is put before `location`."""
        return type(self)(str(self), (*outer, *self.location))


class UnsupportedError(InputError):
    """What was asked is well formed, but this model or this version of kqv can't do it."""


class CheckpointError(KqvError):
    """A model's files are missing, damaged, refused (a pickle), or contradict each other."""

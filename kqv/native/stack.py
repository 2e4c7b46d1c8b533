"""A stack of layers in C, as pass.c wants it, and the calls."""

import ctypes

from kqv.native.library import built
from kqv.native.panels import CPanels
from kqv.native.shapes import CNorm, CShape
from kqv.native.structures import fields


class CLayer(ctypes.Structure):
    """`Layer` in pass.c."""

    _fields_ = [
        ("attention_norm", CNorm),
        ("feed_forward_norm", CNorm),
        *fields(pointer="query_norm key_norm"),
        *((name, CPanels) for name in ("in_", "out", "up", "times", "down")),
    ]


class CStack(ctypes.Structure):
    """`Stack` in pass.c."""

    _fields_ = [*fields(pointer="layers"), ("final_norm", CNorm), *fields(long="num_layers"), ("shape", CShape)]


class CPass(ctypes.Structure):
    """`Pass` in pass.c."""

    _fields_ = fields(pointer="stack x asked given cosines sines", long="tokens")


class CLook(ctypes.Structure):
    """`Look` in pass.c."""

    _fields_ = fields(pointer="low high factors counted most sums worst maps")


class CLooks(ctypes.Structure):
    """`Looks` in pass.c."""

    _fields_ = fields(pointer="call looks planes ends", long="num_measures rows")


def between(run: CPass, layer: int) -> None:
    """From the heads of the layer before, or the embeddings, to those of this one, or the end. Raises `MemoryError`."""
    if not built().kqv_between(ctypes.byref(run), ctypes.c_int64(layer)):
        raise MemoryError("there is no memory for a pass")


def run_through(run: CPass, looks: CLooks) -> None:
    """From the embeddings to the end. Raises `MemoryError`."""
    if not built().kqv_pass(ctypes.byref(run), ctypes.byref(looks)):
        raise MemoryError("there is no memory for a pass")

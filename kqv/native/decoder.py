"""A step of decoding in C: a decoder as decode.c wants it, and the call."""

import ctypes
from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from kqv.native.library import built
from kqv.native.matrices import CMatrix
from kqv.native.shapes import CNorm, CShape
from kqv.native.structures import fields


class CLayer(ctypes.Structure):
    """`Layer` in decode.c."""

    _fields_ = [
        ("attention_norm", CNorm),
        ("feed_forward_norm", CNorm),
        *fields(pointer="query_norm key_norm"),
        *((name, CMatrix) for name in ("in_", "out", "up", "down")),
        *fields(long="window"),
    ]


class CModel(ctypes.Structure):
    """`Model` in decode.c."""

    _fields_ = [
        *fields(pointer="layers frequencies"),
        ("final_norm", CNorm),
        ("head", CMatrix),
        *fields(long="num_layers"),
        ("shape", CShape),
        *fields(float="head_scale"),
    ]


class CText(ctypes.Structure):
    """`Text` in decode.c."""

    _fields_ = fields(pointer="keys values weights", long="length")


class CStep(ctypes.Structure):
    """`Step` in decode.c."""

    _fields_ = fields(pointer="model texts x outputs logits", long="num_texts")


def decode(
    model: CModel,
    x: Float[Tensor, "r W"],
    outputs: Float[Tensor, "L r H D"],
    logits: Float[Tensor, "r V"],
    places: Sequence[Int[Tensor, "2 L"]],
    weights: Sequence[Float[Tensor, "L H _"] | None],
    lengths: Sequence[int],
) -> None:
    """One token more for each of r texts, of which so many were read: `x` becomes the hidden states, and the rest is filled.

    `places` are the addresses of each layer's keys and values, with room for one more. Raises `MemoryError`.
    """
    texts = (CText * len(lengths))()
    for text, place, row, length in zip(texts, places, weights, lengths, strict=True):
        text.keys, text.values, text.length = place[0].data_ptr(), place[1].data_ptr(), length
        text.weights = None if row is None else row.data_ptr()
    step = CStep(
        ctypes.addressof(model), ctypes.addressof(texts), *(part.data_ptr() for part in (x, outputs, logits)), len(lengths)
    )
    if not built().kqv_decode(ctypes.byref(step)):
        raise MemoryError("there is no memory for a step of decoding")

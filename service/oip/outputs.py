"""From analyses to the tensors of an answer: one for each output, with a place for each sequence."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from torch import Tensor

from kqv import Analysis, InputError
from service.oip.reading import Wanted
from service.oip.signature import VERSION, Signature
from service.oip.tensors import write_texts
from service.wire.encoding import Part, analysis_fields
from service.wire.tensors import Array, memory_of, to_array

DTYPES: dict[str, np.dtype[Any]] = {"INT64": np.dtype(np.int64), "FP32": np.dtype(np.float32), "BYTES": np.dtype(object)}
"""What outputs are made of."""


def write_answer(model: str, identity: str, wanted: Sequence[Wanted], analyses: Sequence[Analysis]) -> list[Part]:
    """The answer's JSON, and after it the bytes of the tensors that are wanted so. Raises `InputError` for an output that nothing
    gives."""
    outputs: list[dict[str, Any]] = []
    binaries: list[Part] = []
    for each, array in zip(wanted, gather(wanted, analyses), strict=True):
        output: dict[str, Any] = {"name": each.signature.name, "datatype": each.signature.datatype, "shape": array.shape}
        if each.binary:
            binary: Part = write_texts(array) if array.dtype == object else memory_of(array)
            binaries.append(binary)
            output["parameters"] = {"binary_data_size": len(binary)}
        else:
            output["data"] = array.reshape(-1).tolist() if array.dtype == object else array.reshape(-1)
        outputs.append(output)
    answer = {"model_name": model, "model_version": VERSION, **({"id": identity} if identity else {}), "outputs": outputs}
    return [orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), *binaries]


def gather(wanted: Sequence[Wanted], analyses: Sequence[Analysis]) -> list[Array]:
    """The outputs, of all sequences."""
    results = [fields_of(analysis) for analysis in analyses]
    return [stack([value_at(result, each.signature) for result in results], each.signature) for each in wanted]


def fields_of(analysis: Analysis) -> Mapping[str, Any]:
    """The fields of one sequence, and how long it is."""
    ids, target = analysis.token_ids, analysis.target_token_ids
    lengths = {"lengths": None if ids is None else len(ids), "target_lengths": None if target is None else len(target)}
    return analysis_fields(analysis) | lengths


def value_at(result: Mapping[str, Any], signature: Signature) -> Array:
    """One sequence's part of an output. Raises `InputError` where there is none: no layer of the group is wanted, or vectors were
    given instead of tokens."""
    value: Any = result
    for part in signature.name.split("."):
        value = (value if isinstance(value, Mapping) else vars(value)).get(part)
        if value is None:
            message = f"there is no {signature.name} of this: it has no tokens of its own, or no layer that was asked for"
            raise InputError(message, ("outputs",))
    return to_array(value) if isinstance(value, Tensor) else np.array(value, DTYPES[signature.datatype])


def stack(arrays: Sequence[Array], signature: Signature) -> Array:
    """All sequences in one array; what is shorter than the longest is filled up at the end."""
    if len(arrays) == 1:
        return arrays[0][None]
    largest = map(max, *(array.shape for array in arrays))
    whole = np.full((len(arrays), *largest), signature.filler, DTYPES[signature.datatype])
    for index, array in enumerate(arrays):
        whole[(slice(index, index + 1), *(slice(size) for size in array.shape))] = array
    return whole

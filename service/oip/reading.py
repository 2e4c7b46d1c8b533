"""What an inference request asks for in the engine's terms."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

import torch
from torch import Tensor

from kqv import Input, InputError, Job, Model, Selection, TokenSequence
from kqv.diagnostics import DEFAULT_DIAGNOSTICS
from kqv.inputs import Truncate
from kqv.selection import Output
from service.errors import located
from service.oip.requests import InferOutput, InferRequest, Parameter
from service.oip.signature import Signature, inputs_of, outputs_of
from service.oip.tensors import Value
from service.settings import Settings
from service.work.reading import check_count

SOURCES = ("text", "input_ids", "embeddings")
"""The inputs of which a request has exactly one."""
COMPANIONS = {"pair": ("text",), "target": SOURCES, "attention_mask": ("input_ids", "embeddings")}
"""Each of the others, and what it may stand beside."""
INTEGERS = frozenset({"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "BOOL"})
ACCEPTED = {"BYTES": frozenset({"BYTES"}), "INT64": INTEGERS, "FP32": frozenset({"FP32", "FP64", "FP16", "BF16"})}
"""By the datatype of an input, those that are taken for it."""
PARAMETERS = ("binary_data_output", "heads", "keys", "layers", "queries", "timeout", "truncate")


@dataclass(frozen=True)
class Wanted:
    """An output that is asked for."""

    signature: Signature
    binary: bool


def read_wanted(request: InferRequest, model: Model) -> list[Wanted]:
    """The outputs, each once, by default those of /v1/analyze. Raises `InputError` for one that the model doesn't have."""
    check_parameters(request.parameters)
    signatures = outputs_of(model)
    default = read_flag(request.parameters, "binary_data_output", default=False)
    if request.outputs is None:
        return [Wanted(signature, default) for name, signature in signatures.items() if is_default(name)]
    wanted: dict[str, Wanted] = {}
    for index, output in enumerate(request.outputs):
        with located("outputs", index):
            if output.name not in signatures:
                raise InputError(f"there is no output {output.name!r}; there are {', '.join(signatures)}", ("name",))
            if output.name in wanted:
                raise InputError(f"the output {output.name!r} is asked for twice", ("name",))
            wanted[output.name] = Wanted(signatures[output.name], read_binary(output, default))
    return list(wanted.values())


def is_default(name: str) -> bool:
    """Whether /v1/analyze would give this without being asked for it."""
    *_, group, last = ("", *name.split("."))
    return last in {"lengths", "token_ids", "target_lengths", "target_token_ids", "hidden", "weights"} or (
        group == "diagnostics" and last in DEFAULT_DIAGNOSTICS
    )


def read_binary(output: InferOutput, default: bool) -> bool:
    """Whether the output comes as bytes. Raises `InputError` for other parameters."""
    for name in output.parameters:
        if name != "binary_data":
            raise InputError("an output has no parameter but binary_data: no shared memory, no classes", ("parameters", name))
    return read_flag(output.parameters, "binary_data", default=default)


def check_parameters(parameters: Iterable[str]) -> None:
    """Raise `InputError` for one that would do nothing."""
    for name in parameters:
        if name not in PARAMETERS:
            raise InputError(f"there is no such parameter; there are {', '.join(PARAMETERS)}", ("parameters", name))


def read_flag(parameters: Mapping[str, Parameter], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InputError(f"{name} is true or false, not {value!r}", ("parameters", name))
    return value


def read_timeout_us(request: InferRequest) -> int | None:
    """How long the caller waits, in microseconds; None where it doesn't say. Raises `InputError` for what is no time."""
    value = request.parameters.get("timeout")
    if value is not None and (type(value) is not int or not 1 <= value <= 86_400_000_000):
        raise InputError(f"timeout is in microseconds, 1 to 86400000000, not {value!r}", ("parameters", "timeout"))
    return value


def read_jobs(request: InferRequest, wanted: Sequence[Wanted], model: Model, settings: Settings) -> list[Job]:
    """A job for each sequence. Raises `InputError` at the first wrong field."""
    values = request.values()
    check_inputs(request, values, model)
    selection, truncate = read_selection(request, wanted), read_truncate(request)
    inputs = read_inputs(values)
    check_count(len(inputs), settings)
    return [Job(read_sequence(given, index, model, truncate), selection) for index, given in enumerate(inputs)]


def read_sequence(given: Input, index: int, model: Model, truncate: Truncate) -> TokenSequence:
    """As the model reads it. An error is located by the sequence's place, in whichever tensor."""
    with located("sequence", index):
        return model.read(given, truncate)


def check_inputs(request: InferRequest, values: Mapping[str, Value], model: Model) -> None:
    """Raise `InputError` unless the inputs are the model's, of its types and ranks, and belong together."""
    signatures = inputs_of(model)
    for index, given in enumerate(request.inputs):
        with located("inputs", index):
            signature = signatures.get(given.name)
            if signature is None:
                raise InputError(f"there is no input {given.name!r}; there are {', '.join(signatures)}", ("name",))
            if given.datatype not in ACCEPTED[signature.datatype]:
                raise InputError(f"{given.name} is {signature.datatype}, not {given.datatype}", ("datatype",))
            if len(given.shape) != len(signature.shape):
                raise InputError(f"{given.name} is {list(signature.shape)}, -1 being any size, not {given.shape}", ("shape",))
    sources = [name for name in SOURCES if name in values]
    if len(sources) != 1:
        raise InputError(f"give exactly one of {', '.join(SOURCES)}, not {' and '.join(sources) or 'none of them'}", ("inputs",))
    for name, beside in COMPANIONS.items():
        if name in values and sources[0] not in beside:
            raise InputError(f"{name} can't stand beside {sources[0]}", ("inputs",))
        rank = 2 if name == "attention_mask" else 1
        if name in values and values[name].shape != values[sources[0]].shape[:rank]:
            raise InputError(f"{name} needs the shape {list(values[sources[0]].shape[:rank])}, as {sources[0]} has it", ("inputs",))


def read_inputs(values: Mapping[str, Value]) -> list[Input]:
    """Each sequence as the engine takes it. Raises `InputError`."""
    count = len(next(values[name] for name in SOURCES if name in values))
    if not count:
        raise InputError("there is no sequence in the inputs; send at least one", ("inputs",))
    rows = [{"text": text} for text in values["text"]] if "text" in values else read_rows(values)
    for name in {"pair", "target"} & values.keys():
        rows = [row | {name: text} for row, text in zip(rows, values[name], strict=True)]
    return [Input(**row) for row in rows]


def read_rows(values: Mapping[str, Value]) -> list[dict[str, Any]]:
    """Token ids or embeddings of each sequence, without its padding."""
    name = "input_ids" if "input_ids" in values else "embeddings"
    rows = cast(Tensor, values[name])
    mask = cast(Tensor, values["attention_mask"]) if "attention_mask" in values else torch.ones(rows.shape[:2])
    kept = [row[real_tokens(visible, index)] for index, (row, visible) in enumerate(zip(rows, mask, strict=True))]
    if name == "embeddings":
        return [{"embeddings": row.to(torch.float32)} for row in kept]
    return [{"tokens": row.to(torch.int64).tolist()} for row in kept]


def real_tokens(mask: Tensor, index: int) -> slice:
    """Where the tokens are that are no padding. Raises `InputError` where there is padding between them."""
    places = mask.nonzero().flatten().tolist()
    if not places:
        return slice(0)
    start, stop = places[0], places[-1] + 1
    if stop - start != len(places):
        raise InputError(f"the attention_mask of sequence {index} has a gap; padding is at the ends", ("inputs",))
    return slice(start, stop)


def read_selection(request: InferRequest, wanted: Sequence[Wanted]) -> Selection:
    """What is to be kept of every sequence: what the outputs are made of, within the parameters' bounds."""
    names = [each.signature.name.split(".") for each in wanted]
    last = {path[-1] for path in names}
    diagnostics = tuple(dict.fromkeys(path[-1] for path in names if "diagnostics" in path))
    bounds: dict[str, Any] = {name: read_numbers(request, name) for name in ("layers", "heads", "queries", "keys")}
    return Selection(
        weights="full" if "weights" in last else "none",
        diagnostics=diagnostics or "none",
        outputs=tuple(name for name in get_args(Output) if name in last),
        **bounds,
    )


def read_numbers(request: InferRequest, name: str) -> tuple[int, ...] | None:
    """Whole numbers between commas, of which a crop has two. Raises `InputError`."""
    value = request.parameters.get(name)
    if value is None:
        return None
    is_crop = name in ("queries", "keys")
    try:
        numbers = tuple(int(part) for part in str(value)[:4096].split(","))
    except ValueError:
        numbers = ()
    if not numbers or isinstance(value, bool) or (is_crop and len(numbers) != 2):
        example = '"0,8", two' if is_crop else '"0,-1",'
        raise InputError(f"{name} is a text such as {example} whole numbers between commas, not {value!r}", ("parameters", name))
    return numbers


def read_truncate(request: InferRequest) -> Truncate:
    value = request.parameters.get("truncate", "error")
    if value not in get_args(Truncate):
        raise InputError(f"truncate is one of {', '.join(get_args(Truncate))}, not {value!r}", ("parameters", "truncate"))
    return cast(Truncate, value)

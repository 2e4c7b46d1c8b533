"""Diagnostics as flat rows, for tools that draw tables: a row a sequence, layer, head and measure."""

from collections.abc import Iterator, Sequence
from typing import Any

from kqv import Analysis, InputError, Job, Model
from service.settings import Settings
from service.wire.encoding import Form, encode_parts
from service.wire.requests import AnalyzeRequest, RowsRequest
from service.wire.tensors import to_array
from service.work.reading import read_analysis

FORM = Form("application/json", 100, encode_parts)
"""A row has one number, and the names of its place."""


def read_rows(body: RowsRequest, model: Model, settings: Settings) -> list[Job]:
    """A job for each sequence, of which no map is kept. Raises `InputError` at the first wrong field."""
    if "similarity" in body.diagnostics:
        raise InputError("similarity is a figure of two heads and makes no row; /v1/analyze has it", ("diagnostics",))
    return read_analysis(AnalyzeRequest.model_construct(**dict(body), weights="none", outputs=[]), model, settings)


def rows_of(analyses: Sequence[Analysis]) -> Iterator[dict[str, Any]]:
    """The rows of all sequences, in order."""
    for index, analysis in enumerate(analyses):
        for group, found in analysis.attention.items():
            for measure, figures in found.diagnostics.items():
                for layer, of_layer in zip(found.layers, to_array(figures), strict=True):
                    for head, value in zip(found.heads, of_layer, strict=True):
                        place = {"sequence": index, "group": group, "layer": layer, "head": head}
                        yield place | {"measure": measure, "value": value}

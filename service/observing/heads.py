"""Diagnostics of the heads of chosen models, as metrics: in production too it shows where attention collapses, or a sink grows.

The figures come from analyses that asked for them anyway and, for a share of the other sequences, from a pass of their own that is
made while nothing waits. Each series is a moving average, in which the last hundred sequences or so count.
"""

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import torch
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kqv import Analysis, InputError, Job, Model, Selection
from kqv.config import Group
from kqv.diagnostics import DIAGNOSTICS
from service.batching.batcher import Batcher, Done
from service.errors import RetryLaterError
from service.models import Models
from service.settings import Settings
from service.wire.tensors import Array
from service.work.passes import Analyze, size_of

RATE = 0.01
"""How much a new sequence counts."""
MOST = 16
"""Sequences of one request that are looked at: more would hold up the event loop, and say little more."""
SHOWN = frozenset("layers heads weights pool queries keys diagnostics outputs".split())
"""The fields of a selection that change what is shown of the attention, and not what it is."""


@dataclass(frozen=True)
class Chosen:
    """What is followed of one model."""

    measures: tuple[str, ...]
    means: dict[tuple[str, Group], Array]
    """[L, H] by measure and kind of attention; NaN where nothing was seen yet."""


class Heads(Collector):
    """The moving averages. Raises `InputError` for settings that name no measure of a head."""

    def __init__(self, settings: Settings, models: Models) -> None:
        self._measures: dict[str, tuple[str, ...]] = {}
        for entry in settings.head_metrics:
            model, measure = read_entry(entry)
            self._measures[model] = (*self._measures.get(model, ()), measure)
        self._share = settings.head_metrics_share
        self._models = models
        self._chosen: dict[str, Chosen] = {}
        self._seen: dict[str, int] = {}

    def follow(self, model: Model, jobs: Sequence[Job], analyses: Sequence[Analysis], batcher: Batcher) -> None:
        """Take from the analyses of a request what they have, and now and then look at what they haven't."""
        if model.id not in self._measures:
            return
        chosen = self._of(model)
        for job, analysis in zip(jobs[:MOST], analyses, strict=False):
            if not is_plain(job.selection, chosen.measures):
                continue
            if {*chosen.measures} <= {*job.selection.measures}:
                self._add(model.id, chosen, analysis)
            elif random.random() < self._share and not batcher.load.waiting:
                self._look(model, job, batcher)

    @property
    def unserved(self) -> list[str]:
        """Models of the settings that aren't served."""
        return sorted(self._measures.keys() - {model.id for model in self._models.all()})

    def _of(self, model: Model) -> Chosen:
        """What is followed of a model."""
        if model.id not in self._chosen:
            config, measures = model.config, self._measures[model.id]
            nothing = {group: np.full((layers, config.num_heads), np.nan) for group, layers in config.groups.items()}
            means = {(measure, group): array.copy() for measure in measures for group, array in nothing.items()}
            return self._chosen.setdefault(model.id, Chosen(measures, means))  # whoever asks first, or at the same time
        return self._chosen[model.id]

    def _add(self, model: str, chosen: Chosen, analysis: Analysis) -> None:
        """Let one more sequence count: in the end, so that what is collected meanwhile has the figures of all that it counts."""
        for (measure, group), means in chosen.means.items():
            found = analysis.attention.get(group)
            if found is not None and found.layers and measure in found.diagnostics:
                place = np.ix_(found.layers, found.heads)
                means[place] = mixed(means[place], found.diagnostics[measure].to("cpu", torch.float64).numpy())
        self._seen[model] = self._seen.get(model, 0) + 1

    def _look(self, model: Model, job: Job, batcher: Batcher) -> None:
        """Measure a sequence for the metrics alone, or not, where others would have to wait for it."""
        measures = self._measures[model.id]
        alone = job._replace(selection=Selection(weights="none", diagnostics=measures, outputs=()))
        try:
            [future] = batcher.submit(Analyze(model), [alone], [size_of(alone, model)])
        except RetryLaterError:
            return
        future.add_done_callback(partial(self._looked, model))

    def _looked(self, model: Model, future: asyncio.Future[Done]) -> None:
        if not future.cancelled() and future.exception() is None:
            self._add(model.id, self._of(model), future.result().result)

    def collect(self) -> Iterator[Metric]:
        """The series of all heads, NaN as long as nothing was seen of them."""
        models = [model for model in self._models.all() if model.id in self._measures] if self._models.ready else []
        seen = CounterMetricFamily("kqv_head_sequences", "Sequences that the figures of heads are from.", labels=["model"])
        for model in models:
            seen.add_metric([model.id], self._seen.get(model.id, 0))
        yield seen
        for measure in dict.fromkeys(measure for measures in self._measures.values() for measure in measures):
            help = f"{DIAGNOSTICS[measure].summary}; moving average of a head."
            family = GaugeMetricFamily(f"kqv_head_{measure}", help, labels=["model", "group", "layer", "head"])
            for model in models:
                for (name, group), means in self._of(model).means.items():
                    if name == measure:
                        for (layer, head), mean in np.ndenumerate(means):
                            family.add_metric([model.id, group, str(layer), str(head)], mean)
            yield family


def read_entry(entry: str) -> tuple[str, str]:
    """A model and a measure. Raises `InputError`."""
    model, _, measure = entry.rpartition("/")
    if not model or measure not in FIGURES:
        raise InputError(f"KQV_HEAD_METRICS has {entry!r}, which is not MODEL/MEASURE with one of {', '.join(FIGURES)}")
    return model, measure


FIGURES = tuple(name for name in DIAGNOSTICS if name != "similarity")
"""The measures that are one figure a head; similarity is one a pair of heads."""


def is_plain(selection: Selection, measures: tuple[str, ...]) -> bool:
    """Whether the attention is the model's own, under no override, and measured in the usual way."""
    of_no_account = SHOWN if "top_k_mass" in measures else SHOWN | {"top_k"}
    return all(getattr(selection, field.name) == field.default for field in fields(selection) if field.name not in of_no_account)


def mixed(old: Array, new: Array) -> Array:
    """The average going on; it begins with what is seen first, and an undefined figure changes nothing."""
    moved = np.where(np.isnan(old), new, old + RATE * (new - old))
    return np.where(np.isnan(new), old, moved)

"""The one door: `load` a checkpoint, then `Model.analyze` what it looks at."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from kqv.analysis import Analysis
from kqv.attention.call import Attend
from kqv.attention.packed import attend_packed
from kqv.batch import in_passes, pack
from kqv.checkpoints import read_checkpoint
from kqv.config import Group, ModelShape
from kqv.decoding import Plan, plan
from kqv.errors import InputError, UnsupportedError
from kqv.generate import Generated, Generation, advance, begin, finish
from kqv.inputs import Input, InputLike, TokenSequence, Truncate, read
from kqv.laid_out import laid_out
from kqv.network import Network
from kqv.recorder import Recorder
from kqv.sampling import Sampling
from kqv.selection import Scope, Selection, scopes
from kqv.store import DEFAULT_STORE, find
from kqv.tokenizer import Tokenizer
from kqv.watch import Watch, describe

NOTHING = Selection(weights="none", diagnostics="none", outputs=())
"""A generation that nobody looks at."""

OWN_TARGET = 256
"""Most tokens that an encoder–decoder writes where no target is given."""


class Job(NamedTuple):
    """One sequence and what to keep of it."""

    sequence: TokenSequence
    selection: Selection


@dataclass(frozen=True, eq=False)
class Model:
    """A transformer with its weights and tokenizer. Calls share nothing and change nothing."""

    id: str
    transformer: Network
    tokenizer: Tokenizer | None
    revision: str
    """SHA-256 of the weights' file, first 12 hex digits."""

    @property
    def config(self) -> ModelShape:
        """What kind of transformer it is."""
        return self.transformer.config

    @cached_property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.transformer.parameters()).device

    @cached_property
    def dtype(self) -> torch.dtype:
        """What the weights are made of."""
        return next(self.transformer.parameters()).dtype

    @cached_property
    def parameters(self) -> int:
        """How many weights there are; shared ones count once."""
        return sum(parameter.numel() for parameter in self.transformer.parameters())

    @cached_property
    def network(self) -> Network:
        """The transformer as its passes run, in C where they can."""
        return laid_out(self.transformer)

    @cached_property
    def plan(self) -> Plan | None:
        """How a step of decoding runs in one call, where it can; made when the first text is written."""
        return plan(self.transformer)

    def read(self, given: InputLike, truncate: Truncate = "error") -> TokenSequence:
        """A text, token ids, embeddings or `Input`, as this model reads it. Raises `InputError`."""
        return read(given, self.config, self.tokenizer, truncate)

    def scopes(self, sequence: TokenSequence, selection: Selection) -> dict[Group, Scope]:
        """`selection` settled for each attention group of the model. Raises `InputError` for what the model doesn't have."""
        if "logits" in selection.outputs and self.config.head == "none":
            raise UnsupportedError(f"{self.id} has no language-model head, so it gives no logits", ("outputs",))
        return scopes(selection, self.config, lengths(sequence))

    def answer_numbers(self, sequence: TokenSequence, selection: Selection) -> int:
        """How many numbers the analysis will hold, known before it is made; for an encoder–decoder, once it has a target."""
        tokens = len(sequence.target or sequence)
        d_model, vocabulary = self.config.d_model, self.config.vocabulary_size
        sizes = {"hidden": tokens * d_model, "pooled": d_model, "logits": tokens * vocabulary}
        whole = sum(sizes.get(name, 0) for name in set(selection.outputs))
        return whole + sum(part.numbers(selection, self.config) for part in self.scopes(sequence, selection).values())

    def attention_cells(self, sequence: TokenSequence, selection: Selection) -> int:
        """How many attention weights the analysis will look at, known likewise."""
        if not selection.looks_at_heads:
            return 0
        return sum(part.cells(self.config) for part in self.scopes(sequence, selection).values())

    def analyze(self, inputs: Sequence[InputLike], *, truncate: Truncate = "error", **selection: Any) -> list[Analysis]:
        """Run the sequences as one batch and return what was asked of each; keywords are the fields of `Selection`.

        Raises `InputError`, located by the input's index.
        """
        chosen = Selection(**selection)
        return self.analyze_jobs([Job(sequence, chosen) for sequence in self.read_all(inputs, truncate)])

    def read_all(self, inputs: Sequence[InputLike], truncate: Truncate = "error") -> list[TokenSequence]:
        """`read`, for several; an error is located by the input's index."""
        sequences = []
        for index, given in enumerate(inputs):
            try:
                sequences.append(self.read(given, truncate))
            except InputError as error:
                raise error.within(index) from error
        return sequences

    def complete(self, sequences: Sequence[TokenSequence]) -> list[TokenSequence]:
        """The sequences with a target each: an encoder–decoder's own greedy output, where none was given."""
        if self.config.architecture != "encoder-decoder":
            return list(sequences)
        writing = {
            index: self.begin_target(sequence, (index,)) for index, sequence in enumerate(sequences) if sequence.target is None
        }
        self._write(list(writing.values()))
        return [self.with_target(writing[index]) if index in writing else sequence for index, sequence in enumerate(sequences)]

    def begin_target(self, sequence: TokenSequence, place: tuple[str | int, ...] = ("input",)) -> Generation:
        """An encoder–decoder's own greedy target, before its first step. Raises `InputError` as `begin` does."""
        return self.begin(sequence, Sampling(max_new_tokens=min(OWN_TARGET, self.config.context - 1)), NOTHING, place)

    def with_target(self, generation: Generation) -> TokenSequence:
        """What the encoder read, and what was written of it as its target; the end token is not for reading."""
        ids = generation.read[:-1] if generation.finish_reason == "end" else generation.read
        return replace(generation.source, target=self.read(Input(tokens=ids)))

    @torch.inference_mode()
    def analyze_jobs(self, jobs: Sequence[Job]) -> list[Analysis]:
        """Run sequences that may each be looked at differently as one packed batch. An answer doesn't depend on its neighbours."""
        sequences = self.complete([job.sequence for job in jobs])
        jobs = [Job(sequence, job.selection) for sequence, job in zip(sequences, jobs, strict=True)]
        return in_passes(self.transformer, lambda job: shape(job.sequence), jobs, self._analyze)

    @torch.inference_mode()
    def forward(self, inputs: Sequence[InputLike], *, truncate: Truncate = "error") -> list[Float[Tensor, "n W"]]:
        """The hidden states of the same pass with nothing else kept: the yardstick for what an analysis costs."""
        sequences = self.complete(self.read_all(inputs, truncate))
        return in_passes(self.transformer, shape, sequences, partial(self._hidden, attend=attend_packed))

    def generate(
        self, inputs: Sequence[InputLike], *, selection: Selection | None = None, truncate: Truncate = "error", **sampling: Any
    ) -> list[Generated]:
        """Let the model go on with each text, all of them together; keywords are the fields of `Sampling`.

        `selection` says what to keep of the attention, nothing by default. Raises `InputError`, located by the input's index.
        """
        chosen = Sampling(**sampling)
        return self.generate_each([(sequence, chosen, selection or NOTHING) for sequence in self.read_all(inputs, truncate)])

    def generate_each(self, wanted: Sequence[tuple[TokenSequence, Sampling, Selection]]) -> list[Generated]:
        """`generate`, each text with its own sampling and selection."""
        generations = [self.begin(*each, place=(index,)) for index, each in enumerate(wanted)]
        self._write(generations)
        return [self.finish(generation) for generation in generations]

    def _write(self, generations: Sequence[Generation]) -> None:
        """Step by step until all have ended."""
        while running := [generation for generation in generations if generation.finish_reason is None]:
            self.advance(running)

    def begin(
        self, sequence: TokenSequence, sampling: Sampling, selection: Selection, place: tuple[str | int, ...] = ("input",)
    ) -> Generation:
        """A generation before its first step. Raises `InputError` for what this model can't generate.

        `place` is where the sequence stands in what was asked, for an error about it.
        """
        return begin(self.config, sequence, sampling, selection, place)

    def advance(self, generations: Sequence[Generation]) -> None:
        """One more token for each; several generations share one pass. Where it fails, they are as they were before."""
        advance(self.network, self.tokenizer, generations, self.plan)

    def finish(self, generation: Generation) -> Generated:
        """What a generation that has ended wrote, and what it looked at."""
        return finish(generation, self.tokenizer)

    def _analyze(self, jobs: Sequence[Job]) -> list[Analysis]:
        """Jobs that share a pass."""
        recorder = Recorder([self._watch(*job) for job in jobs])
        hidden = self._hidden([job.sequence for job in jobs], recorder)
        return [self._analysis(*job, recorder, index, hidden[index]) for index, job in enumerate(jobs)]

    def _hidden(self, sequences: Sequence[TokenSequence], attend: Attend) -> tuple[Float[Tensor, "n W"], ...]:
        """The last hidden states of each sequence, from one packed pass."""
        encoder, decoder = self.transformer.encoder, self.transformer.decoder
        targets = [sequence.target or sequence for sequence in sequences]
        row = self.network(
            None if encoder is None else pack(sequences, encoder),
            None if decoder is None else pack(targets, decoder),
            attend,
        )
        return row.packing.split(row.x)

    def _watch(self, sequence: TokenSequence, selection: Selection) -> Watch:
        """What the recorder needs to know of one sequence."""
        target = sequence.target or sequence
        ids: dict[Group, tuple[int, ...] | None] = {"encoder": sequence.ids, "decoder": target.ids, "cross": sequence.ids}
        tokens = describe(lengths(sequence), ids, self.device, self.tokenizer)
        return Watch(selection, self.scopes(sequence, selection), tokens)

    def _analysis(self, sequence: TokenSequence, selection: Selection, recorder: Recorder, index: int, hidden: Tensor) -> Analysis:
        wanted = set(selection.outputs)
        head = self.transformer.head
        return Analysis(
            tokens=sequence.tokens,
            token_ids=sequence.ids,
            target_tokens=None if sequence.target is None else sequence.target.tokens,
            target_token_ids=None if sequence.target is None else sequence.target.ids,
            truncated=sequence.truncated,
            attention=recorder.groups(index),
            hidden=hidden if "hidden" in wanted else None,
            pooled=self._pool(hidden) if "pooled" in wanted else None,
            logits=head(hidden) if "logits" in wanted and head is not None else None,
            checks=recorder.checks(index),
        )

    def _pool(self, hidden: Float[Tensor, "n W"]) -> Float[Tensor, " W"]:
        """One vector for the sequence, as the checkpoint says."""
        pooled = hidden[0] if self.config.pooling == "first" else hidden.mean(0)
        return normalize(pooled, dim=-1) if self.config.normalize_pooled else pooled


def shape(sequence: TokenSequence) -> tuple[int, int]:
    """How many tokens each side of a model reads."""
    return len(sequence), len(sequence.target or sequence)


def lengths(sequence: TokenSequence) -> dict[Group, tuple[int, int]]:
    """How many queries and keys each kind of attention has; a decoder alone reads the sequence itself."""
    source, target = shape(sequence)
    return {"encoder": (source, source), "decoder": (target, target), "cross": (target, source)}


def load(
    name: str | Path,
    *,
    device: str = "auto",
    dtype: torch.dtype = torch.float32,
    store: Path = DEFAULT_STORE,
) -> Model:
    """Load a model by the name that it was pulled under, or from a checkpoint: a directory or a .gguf file, whose name is its id.

    `device` is named as torch names it; "auto" is a GPU where there is one. Raises `CheckpointError` where the files are missing,
    damaged or contradict each other, and `UnsupportedError` for a device that isn't there.
    """
    path = find(name, store)
    checkpoint = read_checkpoint(path)
    transformer = checkpoint.transformer.requires_grad_(False).eval().to(device=pick_device(device), dtype=dtype)
    model = Model(path.stem if path.is_file() else path.name, transformer, checkpoint.tokenizer, checkpoint.revision)
    model.network  # noqa: B018 (laid out now, and not by the first request)
    return model


def pick_device(name: str) -> torch.device:
    """The device that a name means. Raises `UnsupportedError` where this machine, or this torch, has none such."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch raises either, by the kind of device
        raise UnsupportedError(f"there is no device {name!r} here: {str(error).splitlines()[0]}") from error

"""The one door: `load` a checkpoint, then `Model.analyze` what it looks at."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from kqv.analysis import Analysis
from kqv.attention.packed import Attend, attend_fused
from kqv.checkpoints import read_checkpoint
from kqv.config import Group, ModelConfig
from kqv.diagnostics import Tokens
from kqv.errors import InputError, UnsupportedError
from kqv.inputs import InputLike, TokenSequence, Truncate, read
from kqv.packing import Packing
from kqv.recorder import Recorder, Watch
from kqv.selection import Scope, Selection, scope
from kqv.store import DEFAULT_STORE, find
from kqv.tokenizer import Tokenizer
from kqv.transformer import Inputs, Stack, Transformer


class Job(NamedTuple):
    """One sequence and what to keep of it."""

    sequence: TokenSequence
    selection: Selection


@dataclass(frozen=True, eq=False)
class Model:
    """A transformer with its weights and tokenizer. Calls share nothing and change nothing."""

    id: str
    transformer: Transformer
    tokenizer: Tokenizer | None
    revision: str
    """SHA-256 of the weights' file, first 12 hex digits."""

    @property
    def config(self) -> ModelConfig:
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

    def read(self, given: InputLike, truncate: Truncate = "error") -> TokenSequence:
        """A text, token ids, embeddings or `Input`, as this model reads it. Raises `InputError`."""
        return read(given, self.config, self.tokenizer, truncate)

    def scopes(self, sequence: TokenSequence, selection: Selection) -> dict[Group, Scope]:
        """`selection` settled for each attention group of the model. Raises `InputError` for what the model doesn't have."""
        if "logits" in selection.outputs and not self.config.language_model_head:
            raise UnsupportedError(f"{self.id} has no language-model head, so it gives no logits", ("outputs",))
        length = len(sequence)
        return {group: scope(selection, self.config, group, length, length) for group in self.config.groups}

    def answer_numbers(self, sequence: TokenSequence, selection: Selection) -> int:
        """How many numbers the analysis will hold, known before it is made."""
        width = {"hidden": len(sequence) * self.config.d_model, "pooled": self.config.d_model}
        width["logits"] = len(sequence) * self.config.vocabulary_size
        whole = sum(width.get(name, 0) for name in set(selection.outputs))
        return whole + sum(part.numbers(selection, self.config) for part in self.scopes(sequence, selection).values())

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

    @torch.inference_mode()
    def analyze_jobs(self, jobs: Sequence[Job]) -> list[Analysis]:
        """Run sequences that may each be looked at differently as one packed batch. An answer doesn't depend on its neighbours."""
        recorder = Recorder([self._watch(*job) for job in jobs])
        hidden = self._hidden([job.sequence for job in jobs], recorder.attend)
        return [self._analysis(*job, recorder, index, hidden[index]) for index, job in enumerate(jobs)]

    @torch.inference_mode()
    def forward(self, inputs: Sequence[InputLike], *, truncate: Truncate = "error") -> list[Float[Tensor, "n W"]]:
        """The hidden states of the same pass with nothing else kept: the yardstick for what an analysis costs."""
        return list(self._hidden(self.read_all(inputs, truncate), attend_fused))

    def _hidden(self, sequences: Sequence[TokenSequence], attend: Attend) -> tuple[Float[Tensor, "n W"], ...]:
        """The last hidden states of each sequence, from one packed pass."""
        side = self.transformer.encoder or self.transformer.decoder
        assert side is not None
        row = self._pack(sequences, side)
        if self.transformer.encoder is None:
            return row.packing.split(self.transformer(None, row, attend).x)
        return row.packing.split(self.transformer(row, None, attend).x)

    def _pack(self, sequences: Sequence[TokenSequence], side: Stack) -> Inputs:
        """The sequences as one row: of ids, or of vectors where any sequence brings its own."""
        packing = Packing(tuple(map(len, sequences)))
        if all(sequence.ids is not None for sequence in sequences):
            tokens = self._tensor([index for sequence in sequences for index in sequence.ids or ()])
        else:
            tokens = torch.cat([self._vectors(sequence, side) for sequence in sequences])
        types = [kind for sequence in sequences for kind in sequence.token_types or (0,) * len(sequence)]
        return Inputs(tokens, packing, self._tensor(types) if self.config.token_types else None)

    def _vectors(self, sequence: TokenSequence, side: Stack) -> Float[Tensor, "n W"]:
        if sequence.embeddings is not None:
            return sequence.embeddings.to(self.device, self.dtype)
        return side.embedding.lookup(self._tensor(sequence.ids or ()))

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self.device)

    def _watch(self, sequence: TokenSequence, selection: Selection) -> Watch:
        """What the recorder needs to know of one sequence."""
        length, ids, special = len(sequence), None, None
        if sequence.ids is not None:
            ids = self._tensor(sequence.ids)
            if self.tokenizer is not None:
                special = torch.tensor([index in self.tokenizer.special_ids for index in sequence.ids], device=self.device)
        tokens = Tokens(length, length, self.device, ids=ids, special=special)
        return Watch(selection, self.scopes(sequence, selection), dict.fromkeys(self.config.groups, tokens))

    def _analysis(self, sequence: TokenSequence, selection: Selection, recorder: Recorder, index: int, hidden: Tensor) -> Analysis:
        wanted = set(selection.outputs)
        head = self.transformer.head
        return Analysis(
            tokens=sequence.tokens,
            token_ids=sequence.ids,
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


def load(
    name: str | Path,
    *,
    device: str = "auto",
    dtype: torch.dtype = torch.float32,
    store: Path = DEFAULT_STORE,
) -> Model:
    """Load a model by the name that it was pulled under, or from a checkpoint directory; its id is the directory's name.

    `device` is named as torch names it; "auto" is a GPU where there is one. Raises `CheckpointError` where the files are missing,
    damaged or contradict each other, and `UnsupportedError` for a device that isn't there.
    """
    directory = find(name, store)
    checkpoint = read_checkpoint(directory)
    transformer = checkpoint.transformer.requires_grad_(False).eval().to(device=pick_device(device), dtype=dtype)
    return Model(directory.name, transformer, checkpoint.tokenizer, checkpoint.revision)


def pick_device(name: str) -> torch.device:
    """The device that a name means. Raises `UnsupportedError` where this machine, or this torch, has none such."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch raises either, by the kind of device
        raise UnsupportedError(f"there is no device {name!r} here: {str(error).splitlines()[0]}") from error

"""A model of ours and transformers' own of the same checkpoint, on the same tokens: alone, and in a batch of mixed lengths."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tiny
import torch
from torch import Tensor

import kqv
from kqv.config import Group

# float32 keeps 2^-24 of a score around 10 and of sums of some 50 such terms; measured, it comes to a sixth of these.
WEIGHTS, HIDDEN = {"rtol": 0, "atol": 1e-5}, {"rtol": 0, "atol": 1e-4}
LENGTHS = (7, 1, tiny.CONTEXT - 2, 2, 7)
FIRST_ID = 4  # those before are padding or its like, which transformers treats in its own way


@dataclass
class Seen:
    """What one sequence, or a source and its target, gave: weights [layers, heads, queries, keys] of each group."""

    weights: Mapping[Group, Tensor]
    hidden: Tensor
    logits: Tensor | None


def draw(lengths: tuple[int, ...] = LENGTHS) -> list[list[int]]:
    """Random token ids."""
    return [torch.randint(FIRST_ID, tiny.VOCABULARY, (length,)).tolist() for length in lengths]


def assert_equal(found: Seen, expected: Seen) -> None:
    """Weights within 1e-5, hidden states and logits within 1e-4."""
    assert found.weights.keys() == expected.weights.keys()
    for group, weights in expected.weights.items():
        torch.testing.assert_close(found.weights[group], weights, **WEIGHTS)
    torch.testing.assert_close(found.hidden, expected.hidden, **HIDDEN)
    torch.testing.assert_close(found.logits, expected.logits, **HIDDEN)


def assert_one_sided_parity(model: kqv.Model, reference: Any) -> None:
    """An encoder or a decoder, with logits where it has a head."""
    sequences = draw()
    for sequence, together in zip(sequences, see(model, *sequences), strict=True):
        expected = expect(reference, model, sequence)
        [alone] = see(model, sequence)
        assert_equal(together, expected)
        assert_equal(alone, expected)


def see(model: kqv.Model, *sequences: list[int] | kqv.Input) -> list[Seen]:
    """Ours."""
    outputs = ("hidden",) if model.config.head == "none" else ("hidden", "logits")
    found = model.analyze(sequences, outputs=outputs, diagnostics="none")
    return [Seen({group: part.weights for group, part in each.attention.items()}, each.hidden, each.logits) for each in found]


@torch.inference_mode()
def expect(reference: Any, model: kqv.Model, sequence: list[int]) -> Seen:
    """Theirs."""
    ids = torch.tensor([sequence])
    inner = reference.base_model(ids, output_attentions=True)
    logits = None
    if model.config.head != "none":  # a head that is tied to the embeddings is there even where transformers loads none
        bare = reference is reference.base_model
        logits = inner[0][0] @ reference.get_input_embeddings().weight.T if bare else reference(ids)[0][0]
    return Seen({model.config.architecture: torch.cat(inner.attentions)}, inner.last_hidden_state[0], logits)


def assert_two_sided_parity(model: kqv.Model, expect: Callable[[list[int], list[int]], Seen]) -> None:
    """An encoder–decoder, with sources and targets of unlike lengths, against what is expected of one source and its target."""
    sources, targets = draw(), draw((3, 11, 1, 37, 3))
    together = see_both(model, sources, targets)
    for source, target, found in zip(sources, targets, together, strict=True):
        expected = expect(source, target)
        [alone] = see_both(model, [source], [target])
        assert_equal(found, expected)
        assert_equal(alone, expected)


def see_both(model: kqv.Model, sources: list[list[int]], targets: list[list[int]]) -> list[Seen]:
    """Ours: what each target, its start token included, makes of its source."""
    return see(model, *(kqv.Input(tokens=source, target=target) for source, target in zip(sources, targets, strict=True)))


@torch.inference_mode()
def expect_both(reference: Any, source: list[int], target: list[int]) -> Seen:
    """Theirs."""
    given = {"input_ids": torch.tensor([source]), "decoder_input_ids": torch.tensor([target])}
    all_of_it = reference(**given, output_attentions=True, output_hidden_states=True)
    parts = {"encoder": all_of_it.encoder_attentions, "decoder": all_of_it.decoder_attentions, "cross": all_of_it.cross_attentions}
    weights = {group: torch.cat(layers) for group, layers in parts.items()}
    return Seen(weights, all_of_it.decoder_hidden_states[-1][0], all_of_it.logits[0])

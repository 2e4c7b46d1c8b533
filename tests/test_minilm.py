"""The real MiniLM against transformers' eager BERT: every weight of every layer and head, alone and in mixed batches."""

import pydoc_data.topics
from pathlib import Path

import pytest
import torch
import transformers

import kqv

WEIGHTS, HIDDEN = {"rtol": 0, "atol": 1e-5}, {"rtol": 0, "atol": 1e-4}  # float32's roundings come to 7e-6, most of it torch's


@pytest.fixture(scope="module")
def reference(minilm_directory: Path) -> transformers.BertModel:
    return transformers.BertModel.from_pretrained(minilm_directory, attn_implementation="eager").eval()


def real_sentences() -> list[str]:
    """Sixty stretches of Python's own documentation, from a word to more than 500 tokens, and the shortest there can be."""
    words = " ".join(
        pydoc_data.topics.topics[topic] for topic in ("assignment", "comparisons", "lambda", "typesmapping", "specialnames")
    ).split()
    lengths = [1, 2, 3, 5, 7, 9, 11, 13, 17, 19] * 4 + [23, 29, 31, 41, 53, 67, 79, 97] * 2 + [130, 160, 190, 400]
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    sentences = [" ".join(words[start : start + length]) for start, length in zip(starts, lengths, strict=True)]
    return [*sentences, "The cat sat on the mat.", "!"]


def test_every_weight_and_hidden_state_equals_transformers(minilm: kqv.Model, reference: transformers.BertModel) -> None:
    sentences = real_sentences()
    sequences = [minilm.read(sentence, "right") for sentence in sentences]
    lengths = [len(sequence) for sequence in sequences]
    assert len(sentences) >= 50
    assert min(lengths) <= 3
    assert max(lengths) == 512
    selection = kqv.Selection(diagnostics="none")
    # Every second sequence comes first, so that each batch of eight mixes short and long ones.
    order = [*range(0, len(sequences), 2), *range(1, len(sequences), 2)]
    for start in range(0, len(order), 8):
        batch = order[start : start + 8]
        together = minilm.analyze_jobs([kqv.Job(sequences[index], selection) for index in batch])
        for index, batched in zip(batch, together, strict=True):
            [alone] = minilm.analyze_jobs([kqv.Job(sequences[index], selection)])
            with torch.inference_mode():
                expected = reference(torch.tensor([sequences[index].ids]), output_attentions=True)
            for found in (alone, batched):
                torch.testing.assert_close(found.attention["encoder"].weights, torch.cat(expected.attentions), **WEIGHTS)
                torch.testing.assert_close(found.hidden, expected.last_hidden_state[0], **HIDDEN)
            torch.testing.assert_close(batched.attention["encoder"].weights, alone.attention["encoder"].weights, **WEIGHTS)


def test_a_single_token_is_a_sequence(minilm: kqv.Model, reference: transformers.BertModel) -> None:
    [found] = minilm.analyze([[1996]])
    with torch.inference_mode():
        expected = reference(torch.tensor([[1996]]))
    torch.testing.assert_close(found.hidden, expected.last_hidden_state[0], **HIDDEN)
    assert (found.attention["encoder"].weights == 1).all()


def test_ids_are_those_of_transformers_tokenizer(minilm: kqv.Model, minilm_directory: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(minilm_directory)
    for sentence in [*real_sentences()[:20], "Füße, naïve 東京 😀 don't"]:
        assert list(minilm.read(sentence).ids) == theirs(sentence)["input_ids"]


def test_a_head_of_the_first_layer_looks_at_the_previous_token(minilm: kqv.Model) -> None:
    """What a reader finds first in this model: layer 0, head 2."""
    [found] = minilm.analyze(["The cat sat on the mat."])
    assert found.attention["encoder"].diagnostics["previous"][0, 2] > 0.99

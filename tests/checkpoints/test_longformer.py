"""Longformer checkpoints equal transformers' LongformerModel; MiniLM as one is MiniLM, where the window covers all."""

import json
import shutil
from pathlib import Path
from typing import Any

import parity
import pytest
import safetensors.torch
import tiny
import torch
from parity import HIDDEN, WEIGHTS
from torch.testing import assert_close
from transformers import LongformerConfig, LongformerForMaskedLM, LongformerForSequenceClassification, LongformerModel

import kqv
from kqv import Longformer

WINDOWS = [4, 8, 16]  # each divides the widest, to a multiple of which transformers pads
CONFIG = tiny.BERT | {"attention_window": WINDOWS, "max_position_embeddings": tiny.CONTEXT + 2, "pad_token_id": 1}


def expected_weights(found: Any, side_of: list[int], tokens: list[int]) -> torch.Tensor:
    """transformers' weights pair by pair: it has those on global tokens, then on the window's places; global tokens' own apart."""
    layers = []
    for layer, local in enumerate(found.attentions):
        n, side = local.shape[2], side_of[layer]
        maps = torch.zeros(local.shape[1], n, n)
        for query in range(n):
            for place in range(2 * side + 1):
                if 0 <= (key := query + place - side) < n:
                    maps[:, query, key] += local[0, :, query, len(tokens) + place]
            for place, key in enumerate(tokens):
                maps[:, query, key] += local[0, :, query, place]
        for place, token in enumerate(tokens):
            maps[:, token] = found.global_attentions[layer][0, :, :n, place]
        layers.append(maps)
    return torch.stack(layers)


@torch.inference_mode()
def assert_parity(model: kqv.Model, reference: Any, sequence: list[int], tokens: list[int], **selection: Any) -> None:
    mask = torch.zeros(1, len(sequence), dtype=torch.long)
    mask[0, tokens] = 1
    expected = reference.base_model(
        torch.tensor([sequence]), global_attention_mask=mask if tokens else None, output_attentions=True
    )
    [found] = model.analyze([sequence], outputs=("hidden", "logits")[: 1 + hasattr(reference, "lm_head")], **selection)
    assert_close(found.hidden, expected.last_hidden_state[0, : len(sequence)], **HIDDEN)
    weights = found.attention["encoder"].weights
    assert_close(weights, expected_weights(expected, [window // 2 for window in WINDOWS], tokens), **WEIGHTS)
    assert_close(model.forward([sequence])[0], model.analyze([sequence])[0].hidden, rtol=0, atol=1e-5)
    if found.logits is not None:
        assert_close(found.logits, reference.lm_head(expected.last_hidden_state)[0, : len(sequence)], **HIDDEN)


@pytest.mark.parametrize("kind", [LongformerModel, LongformerForMaskedLM])
def test_longformer_equals_transformers(tmp_path: Path, kind: Any) -> None:
    reference = tiny.save(tmp_path, kind, LongformerConfig(**CONFIG), std=0.2)
    model = kqv.load(tmp_path)
    for length in (3, 8, 19, 39):
        [sequence] = parity.draw((length,))
        assert_parity(model, reference, sequence, [])
        for tokens in ([0], [0, 2]):
            assert_parity(model, reference, sequence, tokens, attention=Longformer(global_tokens=tuple(tokens)))


def test_a_classifier_looks_globally_from_its_first_token(tmp_path: Path) -> None:
    reference = tiny.save(tmp_path, LongformerForSequenceClassification, LongformerConfig(**CONFIG), std=0.2)
    [sequence] = parity.draw((19,))
    assert_parity(kqv.load(tmp_path), reference, sequence, [0])


def test_a_sequence_does_not_depend_on_its_neighbours_global_tokens(tmp_path: Path) -> None:
    tiny.save(tmp_path, LongformerModel, LongformerConfig(**CONFIG), std=0.2)
    model = kqv.load(tmp_path)
    sequences = [model.read(ids) for ids in parity.draw((19, 7, 23))]
    selections = [kqv.Selection(attention=Longformer(global_tokens=tokens)) for tokens in ((1,), (0, -1), ())]
    selections[2] = kqv.Selection()
    together = model.analyze_jobs(list(map(kqv.Job, sequences, selections)))
    for sequence, selection, found in zip(sequences, selections, together, strict=True):
        [alone] = model.analyze_jobs([kqv.Job(sequence, selection)])
        assert_close(found.hidden, alone.hidden, rtol=0, atol=1e-5)
        assert_close(found.attention["encoder"].weights, alone.attention["encoder"].weights, rtol=0, atol=1e-6)


def test_one_window_may_stand_for_all_layers(tmp_path: Path) -> None:
    tiny.save(tmp_path, LongformerModel, LongformerConfig(**CONFIG | {"attention_window": 6}))
    assert kqv.load(tmp_path).config.encoder_windows == (6, 6, 6)


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ([4, 8], "attention_window = .* a list of 3"),
        ([4, 8, 0], "attention_window = "),
        (7, "windows are even, half of them to either side, and above 0, not 7"),
    ],
)
def test_windows_that_cannot_be_are_refused(tmp_path: Path, windows: object, message: str) -> None:
    tiny.save(tmp_path, LongformerModel, LongformerConfig(**CONFIG))
    tiny.rewrite_config(tmp_path, attention_window=windows)
    with pytest.raises(kqv.CheckpointError, match=message):
        kqv.load(tmp_path)


def as_longformer(source: Path, directory: Path, window: int, context: int) -> None:
    """A BERT as a Longformer, as the paper makes one of RoBERTa: the projections twice, the positions over and over."""
    config = json.loads((source / "config.json").read_text())
    tensors = safetensors.torch.load_file(source / "model.safetensors")
    for name in [name for name in tensors if "attention.self." in name]:
        head, _, kind = name.rpartition(".")
        tensors[f"{head}_global.{kind}"] = tensors[name].clone()
    name = "embeddings.position_embeddings.weight"
    [name] = [each for each in tensors if each.endswith(name)]
    positions = tensors[name]
    tiled = positions.repeat(-(-context // len(positions)), 1)[:context]
    tensors[name] = torch.cat([torch.zeros(1, positions.shape[1]), tiled])  # that of padding is before the others
    config |= {"model_type": "longformer", "attention_window": window, "architectures": ["LongformerModel"]}
    config |= {"pad_token_id": 0, "max_position_embeddings": context + 1, "sep_token_id": 102}
    (directory / "config.json").write_text(json.dumps(config))
    kept = {each.removeprefix("bert."): tensor for each, tensor in tensors.items() if not each.endswith("position_ids")}
    safetensors.torch.save_file(kept, directory / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(source / "tokenizer.json", directory)


TEXT = "Attention may reach over everything, or over a few neighbours, and the cat that sat on the mat would not mind either. " * 3


def test_minilm_as_a_longformer_is_minilm_where_the_window_covers_all(
    tmp_path: Path, minilm_directory: Path, minilm: kqv.Model
) -> None:
    as_longformer(minilm_directory, tmp_path, window=512, context=512)
    [expected] = minilm.analyze([TEXT])
    for tokens in ((), (0,), (0, 5, -1)):
        [found] = kqv.load(tmp_path).analyze([TEXT], attention=Longformer(global_tokens=tokens))
        assert_close(found.hidden, expected.hidden, rtol=0, atol=1e-4)
        group, whole = found.attention["encoder"], expected.attention["encoder"]
        assert_close(group.weights, whole.weights, **WEIGHTS)
        assert_close(group.diagnostics, whole.diagnostics, rtol=1e-5, atol=1e-5, equal_nan=True)


@torch.inference_mode()
def test_minilm_as_a_longformer_reads_long_texts_as_transformers_does(tmp_path: Path, minilm_directory: Path) -> None:
    as_longformer(minilm_directory, tmp_path, window=64, context=2048)
    model = kqv.load(tmp_path)
    reference = LongformerModel.from_pretrained(tmp_path).eval()
    sequence = model.read(TEXT * 10).ids
    assert len(sequence) > 700
    mask = torch.zeros(1, len(sequence), dtype=torch.long)
    mask[0, 0] = 1
    expected = reference(torch.tensor([sequence]), global_attention_mask=mask).last_hidden_state[0]
    [found] = model.analyze([sequence], attention=Longformer(global_tokens=(0,)), weights="none", diagnostics="none")
    assert_close(found.hidden, expected, **HIDDEN)

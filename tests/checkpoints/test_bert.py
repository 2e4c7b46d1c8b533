"""BERT directories in particular: its config in our terms, and files that older tools wrote."""

from pathlib import Path

import parity
import pytest
import tiny
import torch
import transformers

import kqv


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tiny.bert(tmp_path)
    return tmp_path


def test_config_in_our_terms(directory: Path) -> None:
    config = kqv.load(directory).config
    assert (config.d_model, config.num_heads, config.d_head, config.encoder_layers) == (35, 5, 7, 3)
    assert (config.vocabulary_size, config.context, config.d_feed_forward, config.token_types) == (97, 41, 53, 2)
    assert config.groups == {"encoder": 3}


def test_parameters_are_counted(directory: Path) -> None:
    pooler = 35 * 35 + 35
    expected = sum(tensor.numel() for tensor in transformers.BertModel.from_pretrained(directory).parameters()) - pooler
    assert kqv.load(directory).parameters == expected


def test_task_models_are_read_without_their_heads(tmp_path: Path) -> None:
    task = transformers.BertForSequenceClassification(transformers.BertConfig(**tiny.BERT)).eval()
    task.save_pretrained(tmp_path)
    task.set_attn_implementation("eager")
    parity.assert_one_sided_parity(kqv.load(tmp_path), task.bert)


def test_weights_that_were_converted_from_the_first_checkpoints_are_read(tmp_path: Path) -> None:
    reference = tiny.save(tmp_path, transformers.BertForMaskedLM, transformers.BertConfig(**tiny.BERT), std=0.2)

    def age(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[old] = tensors.pop(name)
        tensors["bert.embeddings.position_ids"] = torch.arange(tiny.CONTEXT)[None]
        tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()

    tiny.rewrite_tensors(tmp_path, age)
    tiny.rewrite_config(tmp_path, tie_word_embeddings=None, is_decoder=None, add_cross_attention=None)
    parity.assert_one_sided_parity(kqv.load(tmp_path), reference)

"""BERT and its relatives equal transformers' eager attention, with their heads and without."""

from pathlib import Path
from typing import Any

import parity
import pytest
import tiny
import transformers
from transformers import BertConfig, DistilBertConfig, RobertaConfig, T5Config, XLMRobertaConfig

import kqv

ENCODERS: dict[str, tuple[Any, transformers.PreTrainedConfig]] = {
    "BERT": (transformers.BertModel, BertConfig(**tiny.BERT)),
    "BERT with its head": (transformers.BertForMaskedLM, BertConfig(**tiny.BERT)),
    "BERT with both heads": (transformers.BertForPreTraining, BertConfig(**tiny.BERT)),
    "BERT with relu": (transformers.BertForMaskedLM, BertConfig(**tiny.BERT, hidden_act="relu", type_vocab_size=1)),
    "BERT with an untied head": (transformers.BertForMaskedLM, BertConfig(**tiny.BERT, tie_word_embeddings=False)),
    "RoBERTa": (transformers.RobertaModel, RobertaConfig(**tiny.BERT, type_vocab_size=1)),
    "RoBERTa with its head": (transformers.RobertaForMaskedLM, RobertaConfig(**tiny.BERT)),
    "RoBERTa with an untied head": (transformers.RobertaForMaskedLM, RobertaConfig(**tiny.BERT, tie_word_embeddings=False)),
    "RoBERTa with another padding": (transformers.RobertaModel, RobertaConfig(**tiny.BERT, pad_token_id=0)),
    "XLM-RoBERTa": (transformers.XLMRobertaForMaskedLM, XLMRobertaConfig(**tiny.BERT, type_vocab_size=1)),
    "DistilBERT": (transformers.DistilBertModel, DistilBertConfig(**tiny.DISTILBERT)),
    "DistilBERT with its head": (transformers.DistilBertForMaskedLM, DistilBertConfig(**tiny.DISTILBERT, activation="relu")),
    "DistilBERT with sines": (
        transformers.DistilBertForMaskedLM,
        DistilBertConfig(**tiny.DISTILBERT, sinusoidal_pos_embds=True),
    ),
    "T5's encoder": (transformers.T5EncoderModel, T5Config(**tiny.T5)),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_equal_transformers(tmp_path: Path, name: str) -> None:
    reference = tiny.save(tmp_path, *ENCODERS[name], std=0.2)
    parity.assert_one_sided_parity(kqv.load(tmp_path), reference)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("RoBERTa with its head", {"hidden_act": "relu"}, "the head of RoBERTa has gelu"),
        ("RoBERTa", {"pad_token_id": 40}, "context = 0"),
        ("RoBERTa", {"max_position_embeddings": 43}, r"\[41, 35\], which make \[39, 35\]; config\.json calls for \[41, 35\]"),
        ("RoBERTa", {"pad_token_id": "<pad>"}, "pad_token_id = '<pad>'"),
        ("DistilBERT", {"dim": None}, "lacks dim"),
        ("DistilBERT", {"sinusoidal_pos_embds": "no"}, "sinusoidal_pos_embds = 'no'"),
        ("DistilBERT with sines", {"max_position_embeddings": 43}, r"position_embeddings\.weight \[41, 42\].*calls for \[43, 42\]"),
    ],
)
def test_an_encoder_that_cannot_be_read_is_refused(tmp_path: Path, name: str, changes: dict[str, object], message: str) -> None:
    tiny.save(tmp_path, *ENCODERS[name])
    tiny.rewrite_config(tmp_path, **changes)
    with pytest.raises(kqv.CheckpointError, match=message):
        kqv.load(tmp_path)


@pytest.mark.parametrize("name", ["BERT with its head", "RoBERTa with its head", "DistilBERT with its head"])
def test_a_tied_head_is_the_embeddings(tmp_path: Path, name: str) -> None:
    tiny.save(tmp_path, *ENCODERS[name])
    model = kqv.load(tmp_path).transformer
    assert model.head.projection.weight is model.encoder.embedding.tokens.weight
    tiny.rewrite_config(tmp_path, tie_word_embeddings=False)
    with pytest.raises(kqv.CheckpointError, match=r"the weights lack .*, which config\.json calls for"):
        kqv.load(tmp_path)

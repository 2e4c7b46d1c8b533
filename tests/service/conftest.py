"""Tiny models, and clients of servers that have them."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny
import tokenizers
import torch
import transformers
from serving import listening, make_app

import kqv

END = 256
"""The end of a text; the tokens before it are one for each byte."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> kqv.Model:
    """3 layers of 5 heads, width 35, 41 tokens of context, a vocabulary of 97."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    tiny.bert(directory)
    return kqv.load(directory)


@pytest.fixture(scope="session")
def client(model: kqv.Model) -> Iterator[httpx.Client]:
    """A client of a real server with small limits, shared by all the tests that leave it as it was."""
    app = make_app(model, max_body_bytes=200_000, max_sequences=7, max_answer_bytes=300_000, max_attend_numbers=100_000)
    with listening(app) as url, httpx.Client(base_url=url, timeout=10) as session:
        yield session


def byte_level(path: Path) -> None:
    """GPT-2's kind of tokenizer without a single merge: random weights write random bytes, few of which are characters."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.save(str(path))


def load_decoder(directory: Path) -> kqv.Model:
    config = transformers.GPT2Config(**(tiny.GPT2 | {"vocab_size": END + 1}), bos_token_id=END, eos_token_id=END)
    tiny.save(directory, transformers.GPT2LMHeadModel, config)
    byte_level(directory / "tokenizer.json")
    return kqv.load(directory)


def load_encoder_decoder(directory: Path) -> kqv.Model:
    special = {"decoder_start_token_id": END, "eos_token_id": END, "pad_token_id": END}
    config = transformers.T5Config(**(tiny.T5 | {"vocab_size": END + 1}), **special)
    tiny.save(directory, transformers.T5ForConditionalGeneration, config)
    byte_level(directory / "tokenizer.json")
    return kqv.load(directory)


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> kqv.Model:
    torch.manual_seed(0)
    return load_decoder(tmp_path_factory.mktemp("models") / "gpt2")


@pytest.fixture(scope="session")
def loaded_encoder_decoder(tmp_path_factory: pytest.TempPathFactory) -> kqv.Model:
    torch.manual_seed(0)
    return load_encoder_decoder(tmp_path_factory.mktemp("models") / "t5")


@pytest.fixture
def encoder_decoder(loaded_encoder_decoder: kqv.Model, monkeypatch: pytest.MonkeyPatch) -> kqv.Model:
    """Its weights are random, so that it never ends a text: what it writes for itself to read is cut short here."""
    monkeypatch.setattr("kqv.engine.OWN_TARGET", 19)
    return loaded_encoder_decoder


@pytest.fixture(scope="session")
def decoder_client(decoder: kqv.Model) -> Iterator[httpx.Client]:
    with listening(make_app(decoder)) as url, httpx.Client(base_url=url, timeout=10) as session:
        yield session


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes each step of writing take 20 ms at least; how many texts each had is noted here."""
    sizes: list[int] = []
    pause = threading.Event()
    advance = kqv.Model.advance

    def counted(self: kqv.Model, generations: Sequence[Any]) -> None:
        sizes.append(len(generations))
        pause.wait(0.02)
        advance(self, generations)

    monkeypatch.setattr(kqv.Model, "advance", counted)
    return sizes

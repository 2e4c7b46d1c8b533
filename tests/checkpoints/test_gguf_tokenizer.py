"""The tokenizer in a GGUF file cuts text as the one that was written into it does, or transformers, or SentencePiece."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny_gguf
import transformers
from texts import NUMBERS, VARIED

import kqv
from kqv.checkpoints.gguf_tokenizer import read_tokenizer


@pytest.fixture(scope="module")
def reference() -> transformers.LlamaForCausalLM:
    return tiny_gguf.llama()


def load_tokenizer(folder: Path, reference: transformers.LlamaForCausalLM, said: dict[str, Any]) -> Callable[[str], list[int]]:
    """Ours: from a text to ids."""
    file = tiny_gguf.write(folder / "model.gguf", tiny_gguf.metadata(reference) | said, tiny_gguf.tensors(reference))
    tokenizer = kqv.load(file).tokenizer
    return lambda text: list(tokenizer.encode(text).ids)


@pytest.mark.parametrize("cut", ["gpt-2", "smollm"])
def test_ids_are_those_of_the_tokenizer_that_was_written(tmp_path: Path, reference: Any, cut: str) -> None:
    theirs = tiny_gguf.bpe(cut)
    ours = load_tokenizer(tmp_path, reference, tiny_gguf.described(theirs, cut))
    for text in (*VARIED, *NUMBERS, "<|im_start|>user\nHi<|im_end|>"):
        assert ours(text) == theirs.encode(text).ids
    assert ours("<|im_end|>") == [tiny_gguf.END]


@pytest.mark.parametrize("cut", ["llama-bpe", "llama3"])
def test_llama_3_cuts_as_transformers_does_and_begins(tmp_path: Path, reference: Any, cut: str) -> None:
    ours = load_tokenizer(tmp_path, reference, tiny_gguf.described(tiny_gguf.bpe("gpt-2"), cut))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    begin = tiny_gguf.CONTROL.index("<|im_start|>")
    for text in (*VARIED, *NUMBERS):
        assert ours(text) == [begin, *theirs(text, add_special_tokens=False)["input_ids"]]


def test_llama_3_has_a_word_whole_whatever_the_merges_say(tmp_path: Path, reference: Any) -> None:
    said = tiny_gguf.described(tiny_gguf.bpe("gpt-2"), "llama-bpe")
    said["tokenizer.ggml.tokens"][-1], said["tokenizer.ggml.merges"] = "Ġqzqz", said["tokenizer.ggml.merges"][:-1]
    assert load_tokenizer(tmp_path, reference, said)("a qzqz")[2:] == [310]
    assert len(load_tokenizer(tmp_path, reference, said | {"tokenizer.ggml.pre": "gpt-2"})("a qzqz")[1:]) > 1


def test_ends_of_a_text_are_as_the_file_says(tmp_path: Path, reference: Any) -> None:
    said = tiny_gguf.described(tiny_gguf.bpe("smollm"), "smollm")
    ends = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    ours, plain = load_tokenizer(tmp_path, reference, said | ends), load_tokenizer(tmp_path, reference, said)("Hi 2")
    assert ours("Hi 2") == [1, *plain, tiny_gguf.END]


PIECES = ("<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)))
MERGED = "▁t he er in ▁a ▁the ▁▁ ing on ▁▁▁▁ an re at ll ▁in and ▁and".split()
LETTERS = "▁abcdefghijklmnopqrstuvwxyz.,"


def sentencepieces(**said: Any) -> dict[str, Any]:
    """A vocabulary as SentencePiece makes it: the earlier a piece was merged, the better its score."""
    tokens = [*PIECES, *MERGED, *LETTERS, "<think>"]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * len(PIECES) + [-float(rank) for rank in range(len(tokens) - len(PIECES))],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len([*MERGED, *LETTERS]), 4],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    } | said


def merged(text: str, prefix: str = "▁") -> list[str]:
    """SentencePiece's BPE, word for word: of all neighbours merge the two that make the best piece, the first of several."""
    tokens = [*prefix, *text.replace(" ", "▁")]
    while True:
        ranks = [
            (MERGED.index(left + right), place) for place, (left, right) in enumerate(pairwise(tokens)) if left + right in MERGED
        ]
        if not ranks:
            break
        _, place = min(ranks)
        tokens[place : place + 2] = [tokens[place] + tokens[place + 1]]
    known = {*MERGED, *LETTERS}
    return [piece for token in tokens for piece in ([token] if token in known else [f"<0x{byte:02X}>" for byte in token.encode()])]


@pytest.mark.parametrize("prefix", ["▁", ""])
def test_sentencepiece_merges_the_best_piece_first(tmp_path: Path, reference: Any, prefix: str) -> None:
    said = sentencepieces(**{"tokenizer.ggml.add_space_prefix": bool(prefix)})
    ours = load_tokenizer(tmp_path, reference, said)
    for text in (*VARIED, *NUMBERS, "in the end    and then", "andering thehere"):
        assert ours(text) == [said["tokenizer.ggml.tokens"].index(piece) for piece in ("<s>", *merged(text, prefix))]


def test_sentencepiece_equals_transformers(tmp_path: Path, reference: Any) -> None:
    ours = load_tokenizer(tmp_path, reference, sentencepieces())
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    for text in VARIED:
        assert ours(text) == theirs(text)["input_ids"]
    tokens = sentencepieces()["tokenizer.ggml.tokens"]
    assert ours("a<think>a")[1:4:2] == [tokens.index("▁a")] * 2
    assert ours("a<think>a")[2] == tokens.index("<think>")


DESCRIPTIONS = {"gpt2": lambda: tiny_gguf.described(tiny_gguf.bpe("smollm"), "smollm"), "llama": sentencepieces}


@pytest.mark.parametrize("kind", DESCRIPTIONS)
def test_a_text_comes_back(kind: str) -> None:
    tokenizer = read_tokenizer(DESCRIPTIONS[kind](), "model.gguf")
    for text in (*VARIED, *NUMBERS):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text

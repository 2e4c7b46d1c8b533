"""The real SmolLM2, from its GGUF, against what transformers makes of the same file in eager mode."""

import pydoc_data.topics
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers
from texts import NUMBERS, VARIED

import kqv

CHAT = "<|im_start|>user\nWhat is 12 + 30?<|im_end|>\n<|im_start|>assistant\n"
WORDS = pydoc_data.topics.topics["assignment"].split()
TEXTS = ("The capital of France is", CHAT, "😀", " ".join(WORDS[:70]), " ".join(WORDS[70:300]))


@pytest.fixture(scope="module")
def theirs(smollm2_directory: Path) -> transformers.LlamaForCausalLM:
    [file] = smollm2_directory.iterdir()
    return transformers.AutoModelForCausalLM.from_pretrained(
        smollm2_directory, gguf_file=file.name, attn_implementation="eager"
    ).eval()


@pytest.fixture(scope="module")
def their_tokenizer(smollm2_directory: Path) -> transformers.PreTrainedTokenizerFast:
    [file] = smollm2_directory.iterdir()
    return transformers.AutoTokenizer.from_pretrained(smollm2_directory, gguf_file=file.name)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Within 1e-4 of the scale."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_every_weight_and_hidden_state_equals_transformers(smollm2: kqv.Model, theirs: transformers.LlamaForCausalLM) -> None:
    batch = smollm2.analyze(TEXTS, outputs=("hidden", "logits"), diagnostics="none")
    lengths = [len(found.token_ids) for found in batch]
    assert min(lengths) < 5 and max(lengths) > 250
    for found in batch:
        with torch.inference_mode():
            ids = torch.tensor([found.token_ids])
            expected = theirs(ids, output_attentions=True, output_hidden_states=True)
        torch.testing.assert_close(found.attention["decoder"].weights, torch.cat(expected.attentions), rtol=0, atol=1e-5)
        assert_close(found.hidden, expected.hidden_states[-1][0])
        assert_close(found.logits, expected.logits[0])


def test_it_is_what_was_published(smollm2: kqv.Model) -> None:
    config = smollm2.config
    assert (config.decoder_layers, config.num_heads, config.num_key_value_heads, config.d_head) == (30, 9, 3, 64)
    assert (config.context, config.rope_theta, config.vocabulary_size) == (8192, 100_000, 49152)
    assert [smollm2.tokenizer.token(index) for index in config.end_tokens] == ["<|im_end|>"]
    assert smollm2.parameters == 134_515_008  # the head is the embeddings


def test_it_knows_a_capital(smollm2: kqv.Model) -> None:
    [found] = smollm2.analyze(["The capital of France is"], outputs=("logits",), diagnostics="none")
    assert smollm2.tokenizer.token(int(found.logits[-1].argmax())) == "ĠParis"


def test_ids_are_those_of_transformers_tokenizer(smollm2: kqv.Model, their_tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    for text in (*VARIED, CHAT, " ".join(WORDS)):
        assert list(smollm2.tokenizer.encode(text).ids) == their_tokenizer(text)["input_ids"]


def test_digits_are_cut_off_before_words_are(smollm2: kqv.Model, their_tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    """As in SmolLM2's published tokenizer.json. GGUF only names that cut, and transformers doesn't know the name."""
    digits, words = tokenizers.pre_tokenizers.Digits(individual_digits=True), their_tokenizer.backend_tokenizer.pre_tokenizer
    their_tokenizer.backend_tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([digits, words])
    for text in (*VARIED, *NUMBERS):
        assert list(smollm2.tokenizer.encode(text).ids) == their_tokenizer(text)["input_ids"]
    assert smollm2.tokenizer.encode("a  5").tokens == ("a", "ĠĠ", "5")


PROMPTS = tuple(" ".join(WORDS[start : start + 3 + start % 11]) for start in range(0, 300, 15))


def test_greedy_text_is_what_transformers_would_write(smollm2: kqv.Model, theirs: transformers.LlamaForCausalLM) -> None:
    """64 tokens after each of 20 prompts, all in the same steps: each token is the likeliest of transformers' own full pass."""
    assert len(PROMPTS) == 20
    for prompt, found in zip(PROMPTS, smollm2.generate(PROMPTS, max_new_tokens=64), strict=True):
        ids = [*smollm2.read(prompt).ids, *found.token_ids]
        with torch.inference_mode():
            chosen = theirs(torch.tensor([ids[:-1]])).logits[0].argmax(-1)
        assert chosen[-len(found.token_ids) :].tolist() == list(found.token_ids)
        assert len(found.token_ids) == 64 or found.finish_reason == "end"

"""mini-t5: T5's layout. It reads a date as people write it, and writes it as ISO 8601 has it, a character at a time."""

import random
from collections.abc import Mapping
from pathlib import Path

import tokenizers
import torch
from jaxtyping import Float
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

import kqv
from training import dates, figures
from training.checkpoint import save
from training.loop import Plan, train

PLAN = Plan(steps=2000, rate=4e-3, weight_decay=0.0)
EXAMPLES = 64
"""In a batch."""

SPECIAL = ["<pad>", "</s>", "<unk>"]
PAD_ID, END_ID, _ = range(len(SPECIAL))
CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz ,./-"


def make(folder: Path, plan: Plan = PLAN) -> None:
    """Train and save."""
    tokenizer, generator = make_tokenizer(), random.Random(0)
    model = begin()
    train(model, lambda: batch(tokenizer, dates.draw(generator, EXAMPLES, held_out=False)), plan)
    save(model, tokenizer, folder, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def make_tokenizer() -> tokenizers.Tokenizer:
    """A token a character, in lower case, and the end token."""
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *CHARACTERS))}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END_ID)])
    return tokenizer


def begin() -> T5ForConditionalGeneration:
    """A model that knows nothing yet."""
    config = T5Config(
        vocab_size=len(SPECIAL) + len(CHARACTERS),
        n_positions=64,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=PAD_ID,
        eos_token_id=END_ID,
        decoder_start_token_id=PAD_ID,
    )
    return T5ForConditionalGeneration(config)


def batch(tokenizer: tokenizers.Tokenizer, examples: list[dates.Example]) -> Mapping[str, Tensor]:
    """Sources, padded, and labels; all targets have the same length."""
    sources = tokenizer.encode_batch([example.source for example in examples])
    longest = max(map(len, sources))
    ids = torch.tensor([source.ids + [PAD_ID] * (longest - len(source)) for source in sources])
    labels = torch.tensor([target.ids for target in tokenizer.encode_batch([example.target for example in examples])])
    return {"input_ids": ids, "attention_mask": (ids != PAD_ID).long(), "labels": labels}


def measure(folder: Path) -> None:
    """Print how many held-out dates come out right, and how much of each cross head's weight lies where the answer is."""
    model, examples = kqv.load(folder, device="cpu"), dates.draw(random.Random(1), 500, held_out=True)
    written = [each.text for each in model.generate([example.source for example in examples], max_new_tokens=12)]
    right = sum(text == example.target for text, example in zip(written, examples, strict=True))
    print(f"held-out dates: {right} of {len(examples)} right")
    figures.by_head("cross-attention on the right part of the source", aligned(model, examples))


def aligned(model: kqv.Model, examples: list[dates.Example]) -> Float[Tensor, "L H"]:
    """Each cross head's mean weight on the characters that say what is to be written next, over all digits."""
    inputs = [kqv.Input(text=example.source, target=example.target) for example in examples]
    shares = []
    for example, found in zip(examples, model.analyze(inputs, diagnostics="none", outputs=()), strict=True):
        weights = found.attention["cross"].weights
        assert weights is not None
        spans = [(place, example.span_of(place)) for place in range(len(example.target))]
        shares += [weights[:, :, place, slice(*span)].sum(-1) for place, span in spans if span]
    return torch.stack(shares).mean(0)

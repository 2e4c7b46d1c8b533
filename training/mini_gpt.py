"""mini-gpt: GPT-2's layout. English, and stretches that repeat, because those are what induction heads grow from."""

import random
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

import kqv
from training import figures
from training.beginnings import resemble, wave
from training.checkpoint import save
from training.loop import Plan, train
from training.text import Stream, prose

PLAN = Plan(steps=5000, rate=4e-3)
VOCABULARY, CONTEXT, WIDTH = 1536, 256, 128
LENGTHS, TOKENS = (64, 128, 256), 2048
"""Tokens a row, one of the three for each batch, and tokens a batch."""
SHORTEST = 12
"""Tokens of a stretch that repeats. With shorter ones, a head gets far by looking at fixed distances, the multiples of a few."""

START = "<|endoftext|>"
START_ID = 0
UNSEEN = -100
"""The label of what can't be known, in transformers' convention."""


def make(folder: Path, plan: Plan = PLAN) -> None:
    """Train and save."""
    text = prose()
    print(f"text {text.digest}: {len(text.training)} paragraphs, and {len(text.held_out)} held out")
    tokenizer = train_tokenizer(text.training)
    rows = Rows(Stream(tokenizer, text.training, end="\n"), random.Random(0))
    model = begin()
    train(model, rows.batch, plan)
    save(model, tokenizer, folder, bos_token=START, eos_token=START)


def train_tokenizer(paragraphs: list[str]) -> tokenizers.Tokenizer:
    """Byte-level BPE, as GPT-2's; but a text starts with the start token, which heads can rest on."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[START], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(paragraphs, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=[(START, START_ID)])
    return tokenizer


def begin() -> GPT2LMHeadModel:
    """A model that knows nothing yet, but looks at what is like and near."""
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=WIDTH,
        n_layer=4,
        n_head=4,
        n_inner=2 * WIDTH,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.06,
        bos_token_id=START_ID,
        eos_token_id=START_ID,
    )
    model = GPT2LMHeadModel(config)
    torch.nn.init.normal_(model.transformer.wte.weight, std=0.1)
    wave(model.transformer.wpe.weight, amplitude=0.1)
    for block in model.transformer.h:
        query, key, _ = block.attn.c_attn.weight.split(WIDTH, dim=1)
        resemble(query, key)
    return model


class Rows:
    """Draws what mini-gpt reads: half of it text, half of it stretches of tokens that come again and again."""

    def __init__(self, text: Stream, generator: random.Random) -> None:
        self.text, self.generator = text, generator

    def batch(self) -> Mapping[str, Tensor]:
        """Rows of one length, with their labels."""
        length = self.generator.choice(LENGTHS)
        rows, labels = zip(*(self.row(length) for _ in range(TOKENS // length)), strict=True)
        return {"input_ids": torch.tensor(rows), "labels": torch.tensor(labels)}

    def row(self, length: int) -> tuple[list[int], list[int]]:
        """Ids and labels. One row in ten lacks the start token, as token ids that a user sends may."""
        ids, labels = self.continued(length) if self.generator.random() < 0.5 else self.repeated(length)
        if self.generator.random() < 0.9:
            ids, labels = [START_ID, *ids[:-1]], [UNSEEN, *labels[:-1]]
        return ids, labels

    def continued(self, length: int) -> tuple[list[int], list[int]]:
        """English, all of it to be learned."""
        ids = self.text.window(length, self.generator)
        return ids, ids

    def repeated(self, length: int) -> tuple[list[int], list[int]]:
        """A stretch over and over, mostly of random tokens; only what was there before can be learned."""
        period = self.generator.randint(SHORTEST, length // 2)
        if self.generator.random() < 0.9:
            stretch = self.generator.choices(range(START_ID + 1, VOCABULARY), k=period)
        else:
            stretch = self.text.window(period, self.generator)
        ids = (stretch * (length // period + 1))[:length]
        return ids, [UNSEEN] * (period + 1) + ids[period + 1 :]


def measure(folder: Path) -> None:
    """Print how well it predicts text that it has not seen, and what its heads do there and where something repeats."""
    model, generator = kqv.load(folder, device="cpu"), random.Random(1)
    text = Stream(tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")), prose().held_out, end="\n")
    plain = [[START_ID, *text.window(127, generator)] for _ in range(100)]
    print(f"held-out text: loss {loss(model, plain):.3f} nats a token")
    for name, values in figures.diagnostics(model, "decoder", plain, ("previous", "first", "duplicate")).items():
        figures.by_head(f"{name} on held-out text", values)
    for title, rows in repeats(text, generator, 100).items():
        [values] = figures.diagnostics(model, "decoder", rows, ("induction",)).values()
        figures.by_head(f"induction on {title}, twice", values)
        print(f"  the second time, {right(model, rows):.1%} of the tokens are guessed")


def repeats(text: Stream, generator: random.Random, count: int) -> dict[str, list[list[int]]]:
    """Rows that say something twice."""
    stretches = {
        "24 random tokens": [generator.choices(range(START_ID + 1, VOCABULARY), k=24) for _ in range(count)],
        "40 tokens of text": [text.window(40, generator) for _ in range(count)],
    }
    return {title: [[START_ID, *stretch, *stretch] for stretch in drawn] for title, drawn in stretches.items()}


def loss(model: kqv.Model, rows: list[list[int]]) -> float:
    """Mean cross-entropy of the next token, in nats."""
    return fmean(
        float(cross_entropy(found[:-1], torch.tensor(row[1:])))
        for found, row in zip(figures.logits(model, rows), rows, strict=True)
    )


def right(model: kqv.Model, rows: list[list[int]]) -> float:
    """How often the likeliest token is the one that comes, where that can be known: the second time, but for its first token."""
    places = slice(len(rows[0]) // 2 + 1, -1)
    guessed = torch.stack(figures.logits(model, rows))[:, places].argmax(-1)
    return float((guessed == torch.tensor(rows)[:, places.start + 1 :]).float().mean())

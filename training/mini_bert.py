"""mini-bert: BERT's layout. English with some of its tokens hidden, in one segment or two."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

import tokenizers
import torch
from jaxtyping import Float, Int
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForMaskedLM

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
HIDDEN = 0.25
"""Share of tokens to guess: more than BERT's 15 %, because there is little time (Wettig et al., 2023)."""

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD_ID, _, CLS_ID, SEP_ID, MASK_ID = range(len(SPECIAL))
UNSEEN = -100
"""The label of what is not to be guessed, in transformers' convention."""


def make(folder: Path, plan: Plan = PLAN) -> None:
    """Train and save."""
    text = prose()
    print(f"text {text.digest}: {len(text.training)} paragraphs, and {len(text.held_out)} held out")
    tokenizer = train_tokenizer(text.training)
    rows = Rows(Stream(tokenizer, text.training), random.Random(0))
    model = begin()
    train(model, rows.batch, plan)
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    save(model, tokenizer, folder, **dict(zip(names, SPECIAL, strict=True)))


def train_tokenizer(paragraphs: list[str]) -> tokenizers.Tokenizer:
    """Uncased WordPiece, as BERT's."""
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.model = models.WordPiece(train_vocabulary(tokenizer, paragraphs), unk_token="[UNK]")
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS_ID), ("[SEP]", SEP_ID)]
    )
    return tokenizer


def train_vocabulary(tokenizer: tokenizers.Tokenizer, paragraphs: list[str]) -> dict[str, int]:
    """Pieces of words by what they are counted to be worth, the same in every run.

    The trainer numbers the letters inside words in the order of a hash table, which is another each time, unless they are named
    beforehand, as only special tokens can be.
    """
    words = (
        word
        for text in paragraphs
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
    )
    letters = sorted({f"##{letter}" for word in words for letter in word[1:]})
    draft = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL + letters, show_progress=False)
    draft.train_from_iterator(paragraphs, trainer)
    return draft.get_vocab()


def begin() -> BertForMaskedLM:
    """A model that knows nothing yet, but looks at what is like and near."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        hidden_size=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=2 * WIDTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.06,
        pad_token_id=PAD_ID,
    )
    model = BertForMaskedLM(config)
    embeddings = model.bert.embeddings
    torch.nn.init.normal_(embeddings.word_embeddings.weight, std=0.1)
    wave(embeddings.position_embeddings.weight, amplitude=0.1)
    for layer in model.bert.encoder.layer:
        attention = layer.attention.self
        resemble(attention.query.weight, attention.key.weight)
    return model


class Rows:
    """Draws what mini-bert reads."""

    def __init__(self, text: Stream, generator: random.Random) -> None:
        self.text, self.generator = text, generator

    def batch(self) -> Mapping[str, Tensor]:
        """Rows of one length, with their labels."""
        length = self.generator.choice(LENGTHS)
        whole, types = zip(*(self.row(length) for _ in range(TOKENS // length)), strict=True)
        rows, labels = zip(*map(self.hide, whole), strict=True)
        return {"input_ids": torch.tensor(rows), "token_type_ids": torch.tensor(types), "labels": torch.tensor(labels)}

    def row(self, length: int) -> tuple[list[int], list[int]]:
        """Ids and segments: a passage, in half of the rows cut in two."""
        if self.generator.random() < 0.5:
            return [CLS_ID, *self.text.window(length - 2, self.generator), SEP_ID], [0] * length
        ids = self.text.window(length - 3, self.generator)
        cut = self.generator.randint(1, len(ids) - 1)
        return [CLS_ID, *ids[:cut], SEP_ID, *ids[cut:], SEP_ID], [0] * (cut + 2) + [1] * (len(ids) - cut + 1)

    def hide(self, ids: list[int]) -> tuple[list[int], list[int]]:
        """What is shown, and what is to be guessed. Of the guessed, a tenth is shown as it is, a tenth as another token."""
        shown, labels = list(ids), [UNSEEN] * len(ids)
        for place, index in enumerate(ids):
            if index not in (CLS_ID, SEP_ID) and self.generator.random() < HIDDEN:
                labels[place] = index
                kinds = (MASK_ID, index, self.generator.randrange(len(SPECIAL), VOCABULARY))
                [shown[place]] = self.generator.choices(kinds, weights=(8, 1, 1))
        return shown, labels


def measure(folder: Path) -> None:
    """Print how well it guesses hidden tokens of text that it has not seen, and what its heads do there."""
    model, generator = kqv.load(folder, device="cpu"), random.Random(1)
    text = Stream(tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")), prose().held_out)
    rows = [[CLS_ID, *text.window(62, generator), SEP_ID] for _ in range(200)]
    for title, guesses in (("mini-bert", guess(model, rows)), ("by frequency", frequency(text, rows))):
        print(f"held-out text, {title}: loss {guesses.loss:.3f} nats a masked token, {guesses.right:.1%} right")
    names = ("previous", "next", "self", "duplicate", "special", "entropy")
    for name, values in figures.diagnostics(model, "encoder", rows, names).items():
        figures.by_head(f"{name} on held-out text", values)


class Guesses(NamedTuple):
    """How good they are."""

    loss: float
    """Mean cross-entropy, in nats."""
    right: float
    """Share of the likeliest that are the hidden ones."""

    @classmethod
    def of(cls, logits: Float[Tensor, "n V"], hidden: Int[Tensor, " n"]) -> Self:
        """Judged by what was hidden."""
        return cls(float(cross_entropy(logits, hidden)), float((logits.argmax(-1) == hidden).float().mean()))


EVERY = 7
"""One token in seven is masked where guesses are judged, about as many as in BERT's own training."""


def guess(model: kqv.Model, rows: list[list[int]]) -> Guesses:
    """What the model makes of rows with masks."""
    masked = [[MASK_ID if is_judged(place, row) else index for place, index in enumerate(row)] for row in rows]
    found = figures.logits(model, masked)
    return Guesses.of(
        torch.cat([logits[torch.tensor(ids) == MASK_ID] for logits, ids in zip(found, masked, strict=True)]), hidden(rows)
    )


def frequency(text: Stream, rows: list[list[int]]) -> Guesses:
    """The best that one can do without looking at the row: each token as likely as it is frequent in this very text."""
    counts = torch.bincount(torch.tensor(text.ids), minlength=VOCABULARY)
    return Guesses.of(counts.log().expand(len(hidden(rows)), -1), hidden(rows))


def hidden(rows: list[list[int]]) -> Int[Tensor, " n"]:
    """The tokens under the masks."""
    return torch.tensor([index for row in rows for place, index in enumerate(row) if is_judged(place, row)])


def is_judged(place: int, row: list[int]) -> bool:
    """Whether a token is masked where guesses are judged; never the first or the last, which are special."""
    return place % EVERY == EVERY // 2 and place < len(row) - 1

"""What an analysis costs in process: against kqv's own plain pass, and against transformers."""

from functools import partial

import torch
import transformers

import kqv
from benchmarks.side_by_side import side_by_side
from kqv.store import find
from service.load import sentences

BATCHES = {
    "one sentence": (["The cat sat on the mat."], 20),
    "32 mixed sentences": (sentences(32, 4, 28), 2),
    "4 texts of 512 tokens": (sentences(4, 450, 450), 1),
}


def run() -> None:
    """MiniLM: the plain pass, all diagnostics, all weights; transformers' plain pass, and its eager attention."""
    model, directory = kqv.load("minilm"), find("minilm")
    eager, sdpa = (transformers.BertModel.from_pretrained(directory, attn_implementation=kind).eval() for kind in ("eager", "sdpa"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    for title, (texts, repeats) in BATCHES.items():
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=512, return_tensors="pt")
        sequences = [model.read(text, "right") for text in texts]
        rivals = {
            "kqv forward": partial(model.forward, texts, truncate="right"),
            "kqv diagnostics": partial(analyze, model, sequences, kqv.Selection(weights="none")),
            "kqv weights": partial(analyze, model, sequences, kqv.Selection(diagnostics="none")),
            "kqv both": partial(analyze, model, sequences, kqv.Selection()),
            "transformers sdpa": partial(plain, sdpa, inputs),
            "transformers eager, weights": partial(plain, eager, inputs, output_attentions=True),
            "transformers eager, entropy": partial(entropies, eager, inputs),
        }
        side_by_side(f"MiniLM, {title}", rivals, rounds=5, repeats=repeats)


def analyze(model: kqv.Model, sequences: list[kqv.TokenSequence], selection: kqv.Selection) -> list[kqv.Analysis]:
    return model.analyze_jobs([kqv.Job(sequence, selection) for sequence in sequences])


@torch.inference_mode()
def plain(model: transformers.BertModel, inputs: transformers.BatchEncoding, **options: bool) -> object:
    return model(**inputs, **options)


@torch.inference_mode()
def entropies(model: transformers.BertModel, inputs: transformers.BatchEncoding) -> list[torch.Tensor]:
    """The entropy of every head, as one computes it from the weights; padded rows not even left out."""
    return [torch.special.entr(weights).sum(-1).mean(-1) for weights in model(**inputs, output_attentions=True).attentions]

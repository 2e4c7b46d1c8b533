"""What an analysis costs in process: against kqv's own plain pass, and against transformers."""

from functools import partial

import torch
import transformers

import kqv
from benchmarks.side_by_side import Call, side_by_side
from kqv.store import find
from service.cli.load import sentences

BATCHES = {
    "one sentence": (["The cat sat on the mat."], 20),
    "32 mixed sentences": (sentences(32, 4, 28), 2),
    "8 texts of 512 tokens": (sentences(8, 450, 450), 1),
}
LONG = 2048
"""Tokens of the decoder's text."""


def run() -> None:
    """MiniLM: the plain pass, all diagnostics, all weights; transformers' plain pass, and its eager attention."""
    model, directory = kqv.load("minilm"), find("minilm")
    eager, sdpa = (transformers.BertModel.from_pretrained(directory, attn_implementation=kind).eval() for kind in ("eager", "sdpa"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    for title, (texts, repeats) in BATCHES.items():
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=512, return_tensors="pt")
        sequences = [model.read(text, "right") for text in texts]
        rivals: dict[str, Call] = {
            "kqv forward": partial(model.forward, texts, truncate="right"),
            "kqv diagnostics": partial(analyze, model, sequences, kqv.Selection(weights="none")),
            "kqv weights": partial(analyze, model, sequences, kqv.Selection(diagnostics="none")),
            "kqv both": partial(analyze, model, sequences, kqv.Selection()),
            "transformers sdpa": partial(plain, sdpa, inputs),
            "transformers eager, weights": partial(plain, eager, inputs, output_attentions=True),
            "transformers eager, entropy": partial(entropies, eager, inputs),
        }
        side_by_side(f"MiniLM, {title}", rivals, rounds=5, repeats=repeats)
    run_decoder()


def run_decoder() -> None:
    """SmolLM2 and one long text: the plain pass and all diagnostics; transformers', and what the same figures cost there."""
    model, ids = kqv.load("smollm2"), torch.randint(20000, (1, LONG))
    eager, sdpa = (random_llama(kind) for kind in ("eager", "sdpa"))
    inputs = transformers.BatchEncoding({"input_ids": ids, "use_cache": False})
    sequences = [model.read(ids[0].tolist())]
    rivals: dict[str, Call] = {
        "kqv forward": partial(model.forward, ids.tolist()),
        "kqv diagnostics": partial(analyze, model, sequences, kqv.Selection(weights="none", outputs=())),
        "transformers sdpa": partial(plain, sdpa, inputs),
        "transformers eager, entropy and maximum": partial(entropies_and_maxima, eager, inputs),
    }
    side_by_side(f"SmolLM2, {LONG} tokens; transformers' of its shape", rivals, rounds=3)


def random_llama(attention: str) -> transformers.PreTrainedModel:
    """SmolLM2's shape, by transformers."""
    sizes = {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "max_position_embeddings": 8192}
    heads = {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
    return transformers.LlamaModel._from_config(transformers.LlamaConfig(**sizes, **heads), attn_implementation=attention).eval()


def analyze(model: kqv.Model, sequences: list[kqv.TokenSequence], selection: kqv.Selection) -> list[kqv.Analysis]:
    return model.analyze_jobs([kqv.Job(sequence, selection) for sequence in sequences])


@torch.inference_mode()
def plain(model: transformers.PreTrainedModel, inputs: transformers.BatchEncoding, **options: bool) -> object:
    return model(**inputs, **options)


@torch.inference_mode()
def entropies(model: transformers.BertModel, inputs: transformers.BatchEncoding) -> list[torch.Tensor]:
    """The entropy of every head, as one computes it from the weights; padded rows not even left out."""
    return [torch.special.entr(weights).sum(-1).mean(-1) for weights in model(**inputs, output_attentions=True).attentions]


@torch.inference_mode()
def entropies_and_maxima(model: transformers.PreTrainedModel, inputs: transformers.BatchEncoding) -> list[torch.Tensor]:
    """Two of the figures of every head."""
    maps = model(**inputs, output_attentions=True).attentions
    return [torch.stack([torch.special.entr(weights).sum(-1).mean(-1), weights.amax(-1).mean(-1)]) for weights in maps]

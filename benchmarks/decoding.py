"""Decoding: tokens a second without and with the attention of each step, alone and together, against transformers' `generate`."""

from copy import deepcopy
from dataclasses import replace
from functools import partial

import torch
import transformers

import kqv
from benchmarks.side_by_side import CONSOLE, side_by_side
from kqv.store import find

PROMPT = "The capital of France is Paris. The history of the city begins with"
TOKENS, TEXTS = 128, 8
ROWS = kqv.Selection(weights="full", diagnostics="none", outputs=())


def run() -> None:
    """SmolLM2 as it comes, which is in 4 and 8 bits; with bfloat16 weights; and with float32 weights that have no smaller form."""
    [file] = find("smollm2").iterdir()
    model, half = kqv.load("smollm2"), kqv.load("smollm2", dtype=torch.bfloat16)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name).eval()
    ours, prompt = partial(write, model), model.read(PROMPT).ids
    assert prompt is not None
    found = side_by_side(
        f"SmolLM2, {TOKENS} tokens after a prompt",
        {
            "transformers": partial(generate, theirs, prompt),
            "kqv": ours,
            "kqv, all attention rows": partial(ours, selection=ROWS),
            "kqv, rows and diagnostics": partial(ours, selection=kqv.Selection(outputs=())),
            "kqv in bfloat16, all attention rows": partial(write, half, selection=ROWS),
            "kqv, weights of no smaller form, all attention rows": partial(write, nudged(model), selection=ROWS),
            f"kqv, {TEXTS} texts, all attention rows": partial(ours, texts=TEXTS, selection=ROWS),
        },
        rounds=3,
    )
    for name, seconds in found.items():
        tokens = TOKENS * (TEXTS if f"{TEXTS} texts" in name else 1)
        CONSOLE.print(f"{name}: {tokens / seconds:.1f} tokens a second")


def write(model: kqv.Model, texts: int = 1, selection: kqv.Selection | None = None) -> None:
    model.generate([PROMPT] * texts, max_new_tokens=TOKENS, selection=selection)


@torch.inference_mode()
def generate(model: transformers.PreTrainedModel, ids: tuple[int, ...]) -> None:
    model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=TOKENS, min_new_tokens=TOKENS)


def nudged(model: kqv.Model) -> kqv.Model:
    """The same model with all weights a hair off, so that none can be had back from fewer bits."""
    other = replace(model, transformer=deepcopy(model.transformer))
    for parameter in other.transformer.parameters():
        parameter.mul_(1 + 1e-5 * torch.rand_like(parameter))
    return other

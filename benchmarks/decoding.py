"""Decoding, a text at a time: tokens a second without and with the attention of each step, against transformers' `generate`."""

from functools import partial

import torch
import transformers

import kqv
from benchmarks.side_by_side import CONSOLE, side_by_side
from kqv.store import find

PROMPT = "The capital of France is Paris. The history of the city begins with"
TOKENS = 40


def run() -> None:
    """SmolLM2 in float32 and with bfloat16 weights."""
    [file] = find("smollm2").iterdir()
    model, half = kqv.load("smollm2"), kqv.load("smollm2", dtype=torch.bfloat16)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name).eval()
    rows = kqv.Selection(weights="full", diagnostics="none", outputs=())
    found = side_by_side(
        f"SmolLM2, {TOKENS} tokens after a prompt",
        {
            "transformers": partial(generate, theirs, model.read(PROMPT).ids),
            "kqv": partial(model.generate, [PROMPT], max_new_tokens=TOKENS),
            "kqv, all attention rows": partial(model.generate, [PROMPT], max_new_tokens=TOKENS, selection=rows),
            "kqv, rows and diagnostics": partial(model.generate, [PROMPT], max_new_tokens=TOKENS, selection=kqv.Selection()),
            "kqv in bfloat16, all attention rows": partial(half.generate, [PROMPT], max_new_tokens=TOKENS, selection=rows),
        },
        rounds=3,
    )
    for name, seconds in found.items():
        CONSOLE.print(f"{name}: {TOKENS / seconds:.1f} tokens a second")


@torch.inference_mode()
def generate(model: transformers.PreTrainedModel, ids: tuple[int, ...]) -> None:
    model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=TOKENS, min_new_tokens=TOKENS)

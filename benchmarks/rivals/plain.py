"""The plain thing: FastAPI around transformers' eager attention, as one would write it in an afternoon.

`python -m benchmarks.rivals.plain MODEL PORT`. It answers the embedding, kqv's own measures of every head (all of "all" but the one
that needs the values) and, where they are asked for, the weights.
"""

import sys
from typing import Any

import torch
import transformers
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from kqv.attention.relations import Tokens
from kqv.diagnostics import DEFAULT_DIAGNOSTICS, Subject, diagnose

MEASURES = [name for name in DEFAULT_DIAGNOSTICS if name != "output_norm"]


class Question(BaseModel):
    """A sentence, and whether to send all weights."""

    input: str
    weights: bool = False


def make_app(directory: str) -> FastAPI:
    app = FastAPI()
    model = transformers.AutoModel.from_pretrained(directory, attn_implementation="eager").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    special = torch.tensor(tokenizer.all_special_ids)

    @app.post("/analyze", response_model=None)  # without a model FastAPI encodes it item by item, as it does for most
    def analyze(question: Question) -> dict[str, Any]:
        return answer(question)

    @app.post("/analyze-typed")
    def analyze_typed(question: Question) -> dict[str, Any]:
        return answer(question)

    def answer(question: Question) -> dict[str, Any]:
        inputs = tokenizer(question.input, return_tensors="pt", truncation=True, max_length=512)
        with torch.inference_mode():
            found = model(**inputs, output_attentions=True)
            [ids] = inputs["input_ids"]
            tokens = Tokens(len(ids), len(ids), ids.device, ids=ids, special=torch.isin(ids, special))
            layers = [measure(weights[0], tokens) for weights in found.attentions]
        shown = {
            "tokens": tokenizer.convert_ids_to_tokens(ids),
            "pooled": found.last_hidden_state[0].mean(0).tolist(),
            "diagnostics": {name: [layer[name] for layer in layers] for name in MEASURES},
        }
        if question.weights:
            shown["weights"] = [weights[0].tolist() for weights in found.attentions]
        return shown

    @app.get("/ready")
    def ready() -> None:
        """It listens, so it has loaded."""

    return app


def measure(weights: torch.Tensor, tokens: Tokens) -> dict[str, list[float | None]]:
    """Every measure of every head; JSON has no NaN."""
    everything = torch.ones(1, *weights.shape[1:], dtype=torch.bool)
    figures = diagnose(Subject(weights, everything, weights.new_zeros(*weights.shape[:2], 1), tokens), MEASURES)
    return {name: [None if value != value else value for value in figure.tolist()] for name, figure in figures.items()}


if __name__ == "__main__":
    uvicorn.run(make_app(sys.argv[1]), port=int(sys.argv[2]), log_level="warning")

"""TransformerLens' `run_with_cache` beside kqv on random weights of GPT-2's shape, where it is installed: `python -m` this."""

import functools
import warnings

import torch

import kqv
from benchmarks.memory import peak_mb
from benchmarks.side_by_side import CONSOLE, Call, side_by_side
from kqv.config import ModelConfig
from kqv.transformer import Transformer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformer_lens import HookedTransformer, HookedTransformerConfig

LENGTHS = (128, 512, 1024)


def ours() -> kqv.Model:
    config = ModelConfig(
        architecture="decoder",
        decoder_layers=12,
        vocabulary_size=50257,
        context=1024,
        d_model=768,
        num_heads=12,
        d_feed_forward=3072,
        norm_placement="pre",
        final_norm=True,
        activation="gelu_tanh",
    )
    transformer = Transformer(config).requires_grad_(False).eval()
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return kqv.Model("gpt2-shaped", transformer, None, "random")


def theirs() -> HookedTransformer:
    sizes = {"n_layers": 12, "d_model": 768, "n_ctx": 1024, "d_head": 64, "n_heads": 12, "d_mlp": 3072, "d_vocab": 50257}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it will be replaced in 4.0, by a wrapper of transformers' models
        return HookedTransformer(HookedTransformerConfig(**sizes, act_fn="gelu_new", normalization_type="LN")).eval()


@torch.inference_mode()
def look(model: HookedTransformer, ids: torch.Tensor) -> list[torch.Tensor]:
    """All activations kept, as is its way, and of each head the entropy and the largest weight; the logits are not asked for."""
    _, cache = model.run_with_cache(ids, return_type=None)
    patterns = [cache["pattern", layer][0] for layer in range(12)]
    return [torch.stack([torch.special.entr(p).sum(-1).mean(-1), p.amax(-1).mean(-1)]) for p in patterns]


def main() -> None:
    model, lens = ours(), theirs()
    for tokens in LENGTHS:
        ids = torch.randint(50257, (1, tokens))
        rivals: dict[str, Call] = {
            "kqv, all diagnostics": functools.partial(model.analyze, ids.tolist(), weights="none", outputs=()),
            "kqv, all weights too": functools.partial(model.analyze, ids.tolist(), outputs=()),
            "TransformerLens, entropy and maximum": functools.partial(look, lens, ids),
        }
        side_by_side(f"GPT-2's shape, {tokens} tokens", rivals, rounds=3)
        CONSOLE.print(", ".join(f"{name}: {peak_mb(call):.0f} MB" for name, call in rivals.items()), "at the peak\n")


if __name__ == "__main__":
    main()

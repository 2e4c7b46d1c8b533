"""RuAccent (https://github.com/kubataba/Russian-Stress-Accent-Predictor, MIT): its pickle and vocabulary made into files that kqv
reads.

It is the original encoder–decoder, over characters, and copies Russian with an apostrophe after each stressed vowel. Imported only
when the model is pulled.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from tokenizers import Tokenizer, decoders, processors
from tokenizers.models import BPE
from torch import Tensor

CONFIG = {
    "model_type": "torch_transformer",
    "vocab_size": 224,
    "max_position_embeddings": 256,
    "d_model": 256,
    "nhead": 8,
    "num_encoder_layers": 4,
    "num_decoder_layers": 4,
    "dim_feedforward": 1024,
    "scale_embedding": True,
    "decoder_start_token_id": 1,
    "eos_token_id": 2,
}
"""What its accentor.py builds; the weights don't say how many heads there are."""

START, END, UNKNOWN = "<s>", "</s>", "<unk>"


def convert(source: Path, target: Path) -> None:
    """Write config.json, model.safetensors and tokenizer.json into `target`, made of acc_model.pt and vocab.json in `source`."""
    # With weights_only a pickle can make tensors and nothing else; and the store has checked that it is the published one.
    state = torch.load(source / "acc_model.pt", map_location="cpu", weights_only=True)
    (target / "model.safetensors").write_bytes(save(renamed(state)))  # save_file would let nobody else read it
    (target / "config.json").write_text(json.dumps(CONFIG, indent=2))
    vocabulary = json.loads((source / "vocab.json").read_text(encoding="utf-8"))
    make_tokenizer(vocabulary).save(str(target / "tokenizer.json"))


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as `kqv.checkpoints.torch_transformer` wants them."""
    tensors = {name: tensor for name, tensor in state.items() if name.startswith("transformer.")}
    tensors["embedding.weight"] = state["embed.char_embed.weight"]
    tensors["positions"] = state["embed.pos_encoding"][0]  # the paper's, with the rounding that they were trained with
    tensors["generator.weight"] = state["output_proj.weight"]
    tensors["generator.bias"] = state["output_proj.bias"]
    return tensors


def make_tokenizer(vocabulary: Mapping[str, int]) -> Tokenizer:
    """Each character a token, between the tokens for start and end; upper case stays. BPE that merges nothing does just that."""
    tokenizer = Tokenizer(BPE(dict(vocabulary), [], unk_token=UNKNOWN))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<pad>", START, END, UNKNOWN])
    ends = [(token, vocabulary[token]) for token in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(f"{START} $A {END}", special_tokens=ends)
    return tokenizer

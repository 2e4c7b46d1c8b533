"""Saving in the layout that Hugging Face's tools write and kqv reads."""

from pathlib import Path

import tokenizers
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerFast


def save(model: PreTrainedModel, tokenizer: tokenizers.Tokenizer, folder: Path, **special: str) -> None:
    """Write config.json, model.safetensors and tokenizer.json; `special` names tokens by transformers' names, as `pad_token`.

    The weights are kept in 16 bits, which halves the files. config.json says float32 all the same, because that is what to
    compute in.
    """
    model.save_pretrained(folder)
    weights = folder / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)

"""Tiny random checkpoints, made by transformers' own classes. Sizes are distinct primes where they can be."""

from pathlib import Path

import tokenizers
import torch
import transformers

WORDS = "the cat sat on mat a dog ran to who saw it and slept in sun . , ? ! ##s ##ing ##ed play walk tree".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def bert(directory: Path, **changes: object) -> transformers.BertModel:
    """A random BERT of 3 layers, 5 heads of 7, saved with its tokenizer; returns transformers' own model of it, in eager mode."""
    sizes = {
        "vocab_size": 97,
        "hidden_size": 35,
        "num_attention_heads": 5,
        "num_hidden_layers": 3,
        "intermediate_size": 53,
        "max_position_embeddings": 41,
        "initializer_range": 0.3,  # large enough that heads differ and attention is not uniform
    }
    config = transformers.BertConfig(**(sizes | changes))
    model = transformers.BertModel(config).eval()
    randomize_norms(model)
    model.save_pretrained(directory)
    wordpiece(directory / "tokenizer.json")
    model.set_attn_implementation("eager")
    return model


def randomize_norms(model: torch.nn.Module) -> None:
    """Norms and biases start as ones and zeros, which would hide one that is left out or swapped."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=1.0 if "Norm.weight" in name else 0.0, std=0.2)


def wordpiece(path: Path) -> None:
    """A small uncased WordPiece tokenizer, as BERT's."""
    vocabulary = {word: index for index, word in enumerate(SPECIAL + WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(path))

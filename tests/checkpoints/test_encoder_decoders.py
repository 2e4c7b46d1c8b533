"""T5 equals transformers' eager attention, and `torch.nn.Transformer` itself."""

import json
import math
from functools import partial
from pathlib import Path

import parity
import pytest
import safetensors.torch
import tiny
import torch
from torch import Tensor, nn
from transformers import (
    ByT5Tokenizer,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedConfig,
    T5Config,
    T5ForConditionalGeneration,
    T5Model,
)

import kqv

NEAR = {"relative_attention_num_buckets": 11, "relative_attention_max_distance": 23}

T5S: dict[str, tuple[type[nn.Module], PreTrainedConfig]] = {
    "T5": (T5ForConditionalGeneration, T5Config(**tiny.T5)),
    "T5 of few buckets": (T5ForConditionalGeneration, T5Config(**tiny.T5, **NEAR)),
    "T5 with gelu": (T5ForConditionalGeneration, T5Config(**tiny.T5, feed_forward_proj="gelu")),
    "T5 as deep on both sides": (T5ForConditionalGeneration, T5Config(**(tiny.T5 | {"num_decoder_layers": None}))),
    "T5 1.1": (T5ForConditionalGeneration, T5Config(**tiny.T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
    "T5 with gated silu": (T5ForConditionalGeneration, T5Config(**tiny.T5, feed_forward_proj="gated-silu")),
    "mT5": (MT5ForConditionalGeneration, MT5Config(**tiny.T5, feed_forward_proj="gated-gelu")),
}


@pytest.mark.parametrize("name", T5S)
def test_t5_equals_transformers(tmp_path: Path, name: str) -> None:
    reference = tiny.save(tmp_path, *T5S[name], std=0.15)
    parity.assert_two_sided_parity(kqv.load(tmp_path), partial(parity.expect_both, reference))


@pytest.fixture
def flan(tmp_path: Path) -> T5ForConditionalGeneration:
    """T5 1.1 as transformers 4 wrote it, with a head of its own, and copies of the embeddings."""
    tiny.save(tmp_path, *T5S["T5 1.1"], std=0.15)
    tiny.rewrite_config(tmp_path, tie_word_embeddings=False, scale_decoder_outputs=None, decoder_start_token_id=7, n_positions=43)

    def add(tensors: dict[str, Tensor]) -> None:
        shared = tensors["shared.weight"]
        tensors |= {"lm_head.weight": torch.randn_like(shared)}
        tensors |= {f"{side}.embed_tokens.weight": shared.clone() for side in ("encoder", "decoder")}

    tiny.rewrite_tensors(tmp_path, add)
    return T5ForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="eager")


def test_t5_with_a_head_of_its_own_equals_transformers(tmp_path: Path, flan: T5ForConditionalGeneration) -> None:
    model = kqv.load(tmp_path)
    parity.assert_two_sided_parity(model, partial(parity.expect_both, flan))
    assert (model.config.start_token, model.config.end_tokens, model.config.context) == (7, (1,), 43)


def test_both_sides_of_t5_and_its_head_share_the_embeddings(tmp_path: Path) -> None:
    reference = tiny.save(tmp_path, *T5S["T5"])
    model = kqv.load(tmp_path, dtype=torch.float64)
    inner = model.transformer
    assert inner.encoder.embedding.tokens.weight is inner.decoder.embedding.tokens.weight is inner.head.projection.weight
    assert model.parameters == sum(parameter.numel() for parameter in reference.parameters())
    assert inner.encoder.relative_bias is not inner.decoder.relative_bias


def test_t5_begins_with_its_padding_token_and_ends_with_its_end_token(tmp_path: Path) -> None:
    tiny.save(tmp_path, *T5S["T5"])
    config = kqv.load(tmp_path).config
    assert (config.start_token, config.end_tokens, config.context) == (0, (1,), 1024)


def test_a_t5_that_lost_its_decoder_is_refused(tmp_path: Path) -> None:
    tiny.save(tmp_path, *T5S["T5"])

    def cut(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("decoder.")]:
            del tensors[name]

    tiny.rewrite_tensors(tmp_path, cut)
    with pytest.raises(kqv.CheckpointError, match=r"the weights lack decoder\.block\.0\."):
        kqv.load(tmp_path)


def test_a_t5_without_a_head_gives_no_logits(tmp_path: Path) -> None:
    tiny.save(tmp_path, T5Model, T5S["T5 1.1"][1])
    tiny.rewrite_config(tmp_path, tie_word_embeddings=False)
    assert kqv.load(tmp_path).config.head == "none"


def test_byt5_reads_bytes_as_transformers_does(tmp_path: Path) -> None:
    sizes = tiny.T5 | {"vocab_size": 384, "feed_forward_proj": "gated-gelu"}
    tiny.save(tmp_path, T5ForConditionalGeneration, T5Config(**sizes))
    assert kqv.load(tmp_path).tokenizer is None
    theirs = ByT5Tokenizer()
    theirs.save_pretrained(tmp_path)
    ours = kqv.load(tmp_path).tokenizer
    for text in ("a b", " two  spaces\n", "héllo мир 😀", "fill <extra_id_0> in <extra_id_124>", "\0\x7f\xad", ""):
        assert list(ours.encode(text).ids) == theirs(text).input_ids
    assert list(ours.encode("a", "b").ids) == theirs("a", "b").input_ids
    assert ours.encode("a ü").tokens == ("a", "Ġ", "Ã", "¼", "</s>")
    assert ours.special_ids == {0, 1, 2, *range(259, 384)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feed_forward_proj": "gated-tanh"}, "feed_forward_proj = 'gated-tanh', .* kqv reads: relu, "),
        ({"d_kv": None}, "lacks d_kv"),
        ({"num_decoder_layers": 6}, r"lack decoder\.block\.5\."),
        ({"relative_attention_num_buckets": 2}, "4 buckets or more"),
        ({"decoder_start_token_id": 97}, "start token, 97, is not among the 97"),
        ({"decoder_start_token_id": "<pad>"}, "decoder_start_token_id = '<pad>', where there should be a token id"),
        ({"feed_forward_proj": "gated-gelu"}, r"lack .*DenseReluDense\.wi_0\.weight"),
    ],
)
def test_a_t5_that_cannot_be_read_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    tiny.save(tmp_path, *T5S["T5"])
    tiny.rewrite_config(tmp_path, **changes)
    with pytest.raises(kqv.CheckpointError, match=message):
        kqv.load(tmp_path)


TORCH = {
    "model_type": "torch_transformer",
    "vocab_size": tiny.VOCABULARY,
    "max_position_embeddings": tiny.CONTEXT,
    "d_model": 34,  # even, for the usual way to write the table
    "nhead": 2,
    "num_encoder_layers": 2,
    "num_decoder_layers": 3,
    "dim_feedforward": 53,
    "decoder_start_token_id": 1,
    "eos_token_id": [2, 3],
}
TORCH_VARIANTS: dict[str, dict[str, object]] = {
    "as Vaswani et al. have it": {"scale_embedding": True},
    "with norms before": {"norm_first": True},
    "with gelu": {"activation": "gelu", "layer_norm_eps": 0.1},
}


class Original(nn.Module):
    """The original Transformer as it is usually written around `torch.nn.Transformer`; attention weights are kept aside."""

    def __init__(self, config: dict[str, object]) -> None:
        super().__init__()
        width = config["d_model"]
        self.scale = math.sqrt(width) if config.get("scale_embedding") else 1.0
        self.embedding = nn.Embedding(config["vocab_size"], width)
        self.register_buffer("positions", torch.randn(config["max_position_embeddings"], width))
        names = (
            "nhead",
            "num_encoder_layers",
            "num_decoder_layers",
            "dim_feedforward",
            "activation",
            "norm_first",
            "layer_norm_eps",
        )
        given = {name: config[name] for name in names if name in config}
        self.transformer = nn.Transformer(width, **given, dropout=0.0, batch_first=True)
        self.generator = nn.Linear(width, config["vocab_size"])
        self.weights: dict[str, list[Tensor]] = {"encoder": [], "decoder": [], "cross": []}
        for name, module in self.named_modules():
            if isinstance(module, nn.MultiheadAttention):
                self.watch(module, "cross" if "multihead" in name else "encoder" if "encoder" in name else "decoder")

    def watch(self, module: nn.MultiheadAttention, group: str) -> None:
        """Keep the weights of every head, which torch averages or never makes."""
        show = {"need_weights": True, "average_attn_weights": False}
        module.register_forward_pre_hook(lambda _, args, kwargs: (args, kwargs | show), with_kwargs=True)
        module.register_forward_hook(lambda _, args, result: self.weights[group].append(result[1].detach()))

    def embed(self, ids: Tensor) -> Tensor:
        return self.embedding(ids) * self.scale + self.positions[: ids.shape[1]]

    def expect(self, source: list[int], target: list[int]) -> parity.Seen:
        """One source and one target."""
        for layers in self.weights.values():
            layers.clear()
        mask = nn.Transformer.generate_square_subsequent_mask(len(target))
        both = self.embed(torch.tensor([source])), self.embed(torch.tensor([target]))
        hidden = self.transformer(*both, tgt_mask=mask, tgt_is_causal=True)[0]  # with gradients, else torch takes a faster path
        weights = {group: torch.cat(layers) for group, layers in self.weights.items()}
        return parity.Seen(weights, hidden.detach(), self.generator(hidden).detach())


def write_original(directory: Path, **changes: object) -> Original:
    """A random original Transformer, in the layout that `kqv.checkpoints.torch_transformer` describes."""
    config = TORCH | changes
    (directory / "config.json").write_text(json.dumps(config))
    original = Original(config)
    tiny.randomize(original, std=0.2)
    safetensors.torch.save_file(original.state_dict(), directory / "model.safetensors")
    return original


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.parametrize("variant", TORCH_VARIANTS)
def test_the_original_transformer_equals_torch(tmp_path: Path, variant: str) -> None:
    original = write_original(tmp_path, **TORCH_VARIANTS[variant])
    parity.assert_two_sided_parity(kqv.load(tmp_path), original.expect)


def test_the_original_transformer_in_our_terms(tmp_path: Path) -> None:
    write_original(tmp_path)
    config = kqv.load(tmp_path).config
    assert config.groups == {"encoder": 2, "decoder": 3, "cross": 3}
    assert (config.positions, config.start_token, config.end_tokens) == ("sinusoidal", 1, (2, 3))


def test_without_a_table_of_positions_the_papers_sines_serve(tmp_path: Path) -> None:
    original = write_original(tmp_path, scale_embedding=True)
    tiny.rewrite_tensors(tmp_path, lambda tensors: tensors.pop("positions"))
    angle = torch.arange(tiny.CONTEXT)[:, None] * torch.exp(torch.arange(0, 34, 2) * (-math.log(10000.0) / 34))
    original.positions = torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)
    parity.assert_two_sided_parity(kqv.load(tmp_path), original.expect)


def test_without_a_generator_the_embeddings_serve(tmp_path: Path) -> None:
    original = write_original(tmp_path)
    tiny.rewrite_tensors(tmp_path, lambda tensors: [tensors.pop(f"generator.{part}") for part in ("weight", "bias")])
    original.generator.weight, original.generator.bias = original.embedding.weight, None
    model = kqv.load(tmp_path)
    parity.assert_two_sided_parity(model, original.expect)
    assert model.transformer.head.projection.weight is model.transformer.encoder.embedding.tokens.weight


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "silu"}, "activation = 'silu', .* kqv reads: relu, gelu"),
        ({"decoder_start_token_id": None}, "lacks decoder_start_token_id"),
        ({"scale_embedding": 16}, "scale_embedding = 16, where there should be true or false"),
        ({"num_encoder_layers": 3}, r"lack transformer\.encoder\.layers\.2\."),
        ({"max_position_embeddings": 43}, r"positions \[41, 34\].*calls for \[43, 34\]"),
        ({"nhead": 4}, "4 heads don't divide a width of 34"),
    ],
)
def test_an_original_transformer_that_cannot_be_read_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    write_original(tmp_path)
    tiny.rewrite_config(tmp_path, **changes)
    with pytest.raises(kqv.CheckpointError, match=message):
        kqv.load(tmp_path)


def test_a_table_of_sines_past_all_measure_is_refused(tmp_path: Path) -> None:
    write_original(tmp_path)
    tiny.rewrite_tensors(tmp_path, lambda tensors: tensors.pop("positions"))
    tiny.rewrite_config(tmp_path, max_position_embeddings=10**12)
    with pytest.raises(kqv.CheckpointError, match="a table of sines for a context of 1000000000000"):
        kqv.load(tmp_path)

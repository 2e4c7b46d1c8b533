"""One definition against torch's encoder, decoder and encoder–decoder on random weights, packed against padded."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from kqv import scratch
from kqv.config import ModelConfig
from kqv.packing import Packing
from kqv.scratch import ROWS
from kqv.transformer import Inputs, Transformer

WIDTH, HEADS, FEED_FORWARD, CONTEXT = 21, 3, 31, 19
FLOAT64 = {"rtol": 0, "atol": 1e-12}  # tens of layers' roundings of numbers around 1

TORCH_NAMES = {
    "self_attention.in_projection.weight": "self_attn.in_proj_weight",
    "self_attention.in_projection.bias": "self_attn.in_proj_bias",
    "self_attention.out_projection": "self_attn.out_proj",
    "cross_attention.in_projection.weight": "multihead_attn.in_proj_weight",
    "cross_attention.in_projection.bias": "multihead_attn.in_proj_bias",
    "cross_attention.out_projection": "multihead_attn.out_proj",
    "feed_forward.up": "linear1",
    "feed_forward.down": "linear2",
    "self_attention_norm": "norm1",
}


def torch_name(name: str) -> str:
    """torch's name for one of our parameters; its feed-forward norm is the last one, whatever its number."""
    for ours, theirs in TORCH_NAMES.items():
        name = name.replace(ours, theirs)
    last = "norm3" if name.startswith("decoder") else "norm2"
    return name.replace("cross_attention_norm", "norm2").replace("feed_forward_norm", last).replace("final_norm", "norm")


def model_like(reference: nn.Module, **changes: object) -> Transformer:
    """Our model with the weights of torch's, in float64; embeddings are zero, since torch's layers take vectors."""
    randomize(reference)
    config = ModelConfig(
        vocabulary_size=1,
        context=CONTEXT,
        d_model=WIDTH,
        num_heads=HEADS,
        d_feed_forward=FEED_FORWARD,
        **changes,  # type: ignore[arg-type]
    )
    model = Transformer(config).double()
    theirs = dict(reference.named_parameters())
    embeddings = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items() if ".embedding." in name}
    model.load_state_dict({name: theirs[torch_name(name)] for name in model.state_dict() if name not in embeddings} | embeddings)
    return model.requires_grad_(False)


def randomize(reference: nn.Module) -> None:
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=0.3)
    reference.double().eval()


def packed(sequences: list[Tensor]) -> Inputs:
    return Inputs(torch.cat(sequences), Packing(tuple(map(len, sequences))))


def sequences(*lengths: int) -> list[Tensor]:
    return [torch.randn(length, WIDTH, dtype=torch.float64) for length in lengths]


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize(("activation", "rows"), [("relu", ROWS), ("gelu", ROWS), ("gelu", 4)])
def test_encoder_equals_torch(placement: str, activation: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "ROWS", rows)  # that are worked on at once
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, FEED_FORWARD, activation=activation, batch_first=True, norm_first=placement == "pre"
    )
    reference = nn.ModuleDict({"encoder": nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False)})
    kind = {"architecture": "encoder", "encoder_layers": 2, "final_norm": True}
    model = model_like(reference, norm_placement=placement, activation=activation, **kind)
    given = sequences(5, 1, 11)
    expected = [reference["encoder"](x[None])[0] for x in given]
    for mode in (torch.enable_grad, torch.inference_mode):  # without gradients, layers share their tensors
        with mode():
            row = model(packed(given))
            for found, outputs in zip(row.packing.split(row.x), expected, strict=True):
                torch.testing.assert_close(found, outputs, **FLOAT64)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")  # torch's own default, with norm_first
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_encoder_decoder_equals_torch(placement: str) -> None:
    reference = nn.Transformer(WIDTH, HEADS, 2, 3, FEED_FORWARD, batch_first=True, norm_first=placement == "pre")
    kind = {"architecture": "encoder-decoder", "encoder_layers": 2, "decoder_layers": 3, "final_norm": True}
    model = model_like(reference, norm_placement=placement, **kind)
    sources, targets = sequences(5, 1, 11), sequences(2, 7, 3)
    row = model(packed(sources), packed(targets))
    for found, source, target in zip(row.packing.split(row.x), sources, targets, strict=True):
        causal = nn.Transformer.generate_square_subsequent_mask(len(target), dtype=torch.float64)
        expected = reference(source[None], target[None], tgt_mask=causal, tgt_is_causal=True)[0]
        torch.testing.assert_close(found, expected, **FLOAT64)


def test_decoder_is_a_causal_encoder() -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, FEED_FORWARD, batch_first=True, norm_first=True)
    reference = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    # The decoder's feed-forward norm is its last, so a decoder without cross-attention takes an encoder's names.
    model = model_like(nn.ModuleDict({"encoder": reference}), architecture="encoder", encoder_layers=2, norm_placement="pre")
    config = {**vars(model.config), "architecture": "decoder", "encoder_layers": 0, "decoder_layers": 2}
    decoder = Transformer(ModelConfig(**config)).double()
    decoder.load_state_dict({name.replace("encoder", "decoder"): tensor for name, tensor in model.state_dict().items()})
    given = sequences(5, 11)
    row = decoder(None, packed(given))
    for found, x in zip(row.packing.split(row.x), given, strict=True):
        causal = nn.Transformer.generate_square_subsequent_mask(len(x), dtype=torch.float64)
        torch.testing.assert_close(found, reference(x[None], mask=causal, is_causal=True)[0], **FLOAT64)


def test_later_tokens_do_not_reach_earlier_ones_of_a_decoder() -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        architecture="decoder",
        vocabulary_size=53,
        context=CONTEXT,
        d_model=WIDTH,
        num_heads=HEADS,
        d_feed_forward=FEED_FORWARD,
        decoder_layers=2,
    )
    model = Transformer(config).double()
    nn.init.normal_(model.decoder.embedding.positions)  # type: ignore[union-attr]
    ids = torch.randint(0, 53, (11,))
    whole = model(None, Inputs(ids, Packing((11,)))).x
    start = model(None, Inputs(ids[:7], Packing((7,)))).x
    torch.testing.assert_close(whole[:7], start, **FLOAT64)


def test_sinusoidal_positions_reach_the_model_without_a_checkpoint() -> None:
    kind = {"architecture": "encoder", "vocabulary_size": 7, "d_model": 8, "num_heads": 2, "d_feed_forward": 3, "encoder_layers": 1}
    with torch.device("meta"):
        model = Transformer(ModelConfig(context=5, positions="sinusoidal", **kind))  # type: ignore[arg-type]
    assert model.encoder is not None
    table = model.encoder.embedding.positions
    torch.testing.assert_close(table[0], torch.tensor([0.0, 1.0] * 4))
    torch.testing.assert_close(table[3, :2], torch.tensor([3.0]).sin().new_tensor([0.1411200081, -0.9899924966]))
    torch.testing.assert_close(table[3, 6], torch.tensor(3e-3).sin())  # 10000^(6/8) = 1000


def test_laying_out_a_model_fills_nothing_and_loads_no_compiler() -> None:
    script = """
import sys
from kqv import transformer
from kqv.config import ModelConfig
from kqv.transformer import lay_out
sizes = {"vocabulary_size": 7, "context": 5, "d_model": 8, "num_heads": 2, "d_feed_forward": 3, "encoder_layers": 1}
config = ModelConfig(architecture="encoder", **sizes)
assert all(parameter.is_meta for parameter in lay_out(config).parameters())
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)

"""Reading BERT directories: what is there is read right, what is wrong is named."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import tiny
import torch
import transformers

import kqv


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tiny.bert(tmp_path)
    return tmp_path


def rewrite_config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def rewrite_tensors(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = directory / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors)
    safetensors.torch.save_file(tensors, path)


def test_config_in_our_terms(directory: Path) -> None:
    config = kqv.load(directory).config
    assert (config.d_model, config.num_heads, config.d_head, config.encoder_layers) == (35, 5, 7, 3)
    assert (config.vocabulary_size, config.context, config.d_feed_forward, config.token_types) == (97, 41, 53, 2)
    assert config.groups == {"encoder": 3}


def test_the_id_is_the_folders_name_and_the_revision_follows_the_weights(directory: Path) -> None:
    before = kqv.load(directory)
    assert before.id == directory.name
    rewrite_tensors(directory, lambda tensors: tensors["embeddings.LayerNorm.bias"].add_(1))
    assert kqv.load(directory).revision != before.revision


def test_parameters_are_counted(directory: Path) -> None:
    pooler = 35 * 35 + 35
    expected = sum(tensor.numel() for tensor in transformers.BertModel.from_pretrained(directory).parameters()) - pooler
    assert kqv.load(directory).parameters == expected


@pytest.mark.parametrize(
    "changes", [{"hidden_act": "relu"}, {"type_vocab_size": 1}, {"num_hidden_layers": 1}, {"layer_norm_eps": 0.1}]
)
def test_variants_equal_transformers(tmp_path: Path, changes: dict[str, object]) -> None:
    reference = tiny.bert(tmp_path, **changes)
    [found] = kqv.load(tmp_path).analyze([[2, 5, 6, 7, 3]])
    with torch.inference_mode():
        expected = reference(torch.tensor([[2, 5, 6, 7, 3]]), output_attentions=True)
    torch.testing.assert_close(found.hidden, expected.last_hidden_state[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(found.attention["encoder"].weights, torch.cat(expected.attentions), rtol=0, atol=1e-5)


def test_task_models_are_read_without_their_heads(tmp_path: Path) -> None:
    reference = tiny.bert(tmp_path)
    task = transformers.BertForSequenceClassification(reference.config).eval()
    task.bert.load_state_dict(reference.state_dict())
    task.save_pretrained(tmp_path)
    with torch.inference_mode():
        expected = reference(torch.tensor([[2, 5, 3]])).last_hidden_state[0]
    torch.testing.assert_close(kqv.load(tmp_path).analyze([[2, 5, 3]])[0].hidden, expected, rtol=0, atol=1e-4)


def test_half_precision_files_are_read_as_float32(directory: Path) -> None:
    rewrite_tensors(directory, lambda tensors: tensors.update({name: tensor.half() for name, tensor in tensors.items()}))
    model = kqv.load(directory)
    assert model.dtype == torch.float32
    assert model.analyze(["the cat"])[0].hidden.dtype == torch.float32


def modules(directory: Path, mode: str, *kinds: str) -> None:
    """sentence-transformers' module files."""
    types = [{"type": f"sentence_transformers.models.{kind}"} for kind in ("Transformer", "Pooling", *kinds)]
    (directory / "modules.json").write_text(json.dumps(types))
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(
        json.dumps({f"pooling_mode_{mode}": True, "pooling_mode_max_tokens": mode == "max"})
    )


def test_pooled_is_the_mean_unless_the_checkpoint_says_otherwise(directory: Path) -> None:
    [plain] = kqv.load(directory).analyze(["the cat"], outputs=("hidden", "pooled"))
    torch.testing.assert_close(plain.pooled, plain.hidden.mean(0), rtol=0, atol=0)
    modules(directory, "cls_token", "Normalize")
    [first] = kqv.load(directory).analyze(["the cat"], outputs=("hidden", "pooled"))
    torch.testing.assert_close(first.pooled, first.hidden[0] / first.hidden[0].norm(), rtol=0, atol=1e-7)


Damage = Callable[[Path], object]
DAMAGE: dict[str, tuple[Damage, str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), r"config\.json is missing"),
    "config cut short": (lambda d: (d / "config.json").write_text('{"model_type"'), r"config\.json is not JSON"),
    "config of a list": (lambda d: (d / "config.json").write_text("[]"), "holds no JSON object"),
    "unknown kind": (lambda d: rewrite_config(d, model_type="mamba"), "model_type 'mamba'; kqv reads bert"),
    "a field left out": (lambda d: rewrite_config(d, intermediate_size=None), "lacks 'intermediate_size'"),
    "a width of text": (lambda d: rewrite_config(d, hidden_size="wide"), "d_model = 'wide'"),
    "heads that don't divide": (lambda d: rewrite_config(d, num_attention_heads=6), "6 heads don't divide a width of 35"),
    "another activation": (lambda d: rewrite_config(d, hidden_act="swish"), "no activation 'swish'"),
    "relative positions": (lambda d: rewrite_config(d, position_embedding_type="relative_key"), "relative positions"),
    "more layers than weights": (lambda d: rewrite_config(d, num_hidden_layers=4), r"lack encoder\.layer\.3\..* and 11 more"),
    "fewer layers than weights": (lambda d: rewrite_config(d, num_hidden_layers=2), r"hold encoder\.layer\.2\..* no place"),
    "another width": (lambda d: rewrite_config(d, intermediate_size=59), r"up\.\w+ have the shape \[53.*calls for \[59"),
    "a missing tensor": (
        lambda d: rewrite_tensors(d, lambda tensors: tensors.pop("embeddings.LayerNorm.bias")),
        r"lack embeddings\.LayerNorm\.bias, which config\.json calls for",
    ),
    "an extra tensor": (
        lambda d: rewrite_tensors(d, lambda tensors: tensors.update(extra=torch.zeros(1))),
        "hold extra, for which",
    ),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), r"model\.safetensors is missing"),
    "weights cut short": (lambda d: truncate(d / "model.safetensors", -100), r"model\.safetensors is damaged or cut short"),
    "header cut short": (lambda d: truncate(d / "model.safetensors", 20), r"model\.safetensors is damaged or cut short"),
    "empty weights": (lambda d: truncate(d / "model.safetensors", 0), r"model\.safetensors is damaged or cut short"),
    "noise": (lambda d: (d / "model.safetensors").write_bytes(b"\xff" * 4096), r"model\.safetensors is damaged or cut short"),
    "tokenizer of noise": (lambda d: (d / "tokenizer.json").write_text("{}"), r"tokenizer\.json can't be read"),
    "pooling kqv lacks": (lambda d: modules(d, "max"), "asks for pooling_mode_max"),
}


def truncate(path: Path, size: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:size])


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused_by_name(directory: Path, damage: str) -> None:
    harm, message = DAMAGE[damage]
    harm(directory)
    with pytest.raises(kqv.CheckpointError, match=message):
        kqv.load(directory)


class Trap:
    """Unpickling it would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    "save", [torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap))], ids=["torch.save", "pickle"]
)
def test_a_pickle_is_refused_and_never_run(directory: Path, tmp_path: Path, name: str, save: Callable[..., object]) -> None:
    (directory / "model.safetensors").unlink()
    mark = tmp_path / "run"
    save(Trap(mark), directory / name)
    with pytest.raises(kqv.CheckpointError, match="is a pickle, which kqv never reads"):
        kqv.load(directory)
    assert not mark.exists()

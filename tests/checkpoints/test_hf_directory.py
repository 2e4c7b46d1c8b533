"""Checkpoint directories: what is there is read, in one file or in several; what is wrong is named."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import tiny
import torch
import transformers
from tiny import rewrite_config, rewrite_tensors

import kqv


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tiny.bert(tmp_path)
    return tmp_path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A Llama in four files."""
    reference = tiny.save(tmp_path, transformers.LlamaForCausalLM, transformers.LlamaConfig(**tiny.LLAMA))
    (tmp_path / "model.safetensors").unlink()
    reference.save_pretrained(tmp_path, max_shard_size="50KB")
    return tmp_path


def test_the_id_is_the_folders_name_and_the_revision_follows_the_weights(directory: Path) -> None:
    before = kqv.load(directory)
    assert before.id == directory.name
    rewrite_tensors(directory, lambda tensors: tensors["embeddings.LayerNorm.bias"].add_(1))
    assert kqv.load(directory).revision != before.revision


def test_half_precision_files_are_read_as_float32(directory: Path) -> None:
    rewrite_tensors(directory, lambda tensors: tensors.update({name: tensor.half() for name, tensor in tensors.items()}))
    model = kqv.load(directory)
    assert model.dtype == torch.float32
    assert model.analyze(["the cat"])[0].hidden.dtype == torch.float32


def test_a_model_in_shards_is_the_model_in_one_file(shards: Path) -> None:
    in_shards = kqv.load(shards)
    files = sorted(shards.glob("model-*.safetensors"))
    assert len(files) > 2
    tensors = {name: tensor for path in files for name, tensor in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file(tensors, shards / "model.safetensors")
    whole = kqv.load(shards)
    state = whole.transformer.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in in_shards.transformer.state_dict().items())
    assert in_shards.revision != whole.revision


def test_the_revision_follows_every_shard(shards: Path) -> None:
    before = kqv.load(shards).revision
    for path in sorted(shards.glob("model-*.safetensors")):
        tensors = {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}
        next(iter(tensors.values())).view(-1)[0] += 1
        safetensors.torch.save_file(tensors, path)
        after = kqv.load(shards).revision
        assert after != before
        before = after


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


def generation(directory: Path, **fields: object) -> None:
    (directory / "generation_config.json").write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("in_config", "in_generation", "expected"),
    [(2, None, (2,)), (None, 3, (3,)), (2, [5, 2, 7], (2, 5, 7)), ([4, 2], 2, (4, 2)), (None, None, ())],
)
def test_what_ends_a_generation_comes_from_both_files(
    tmp_path: Path, in_config: object, in_generation: object, expected: tuple[int, ...]
) -> None:
    tiny.save(tmp_path, transformers.LlamaForCausalLM, transformers.LlamaConfig(**tiny.LLAMA))
    rewrite_config(tmp_path, eos_token_id=in_config)
    generation(tmp_path, eos_token_id=in_generation)
    assert kqv.load(tmp_path).config.end_tokens == expected


def test_what_begins_a_generation_may_stand_in_the_generation_config(tmp_path: Path) -> None:
    tiny.save(tmp_path, transformers.T5ForConditionalGeneration, transformers.T5Config(**tiny.T5))
    generation(tmp_path, decoder_start_token_id=5)
    assert kqv.load(tmp_path).config.start_token == 5


def index(directory: Path, file: object) -> None:
    """An index that names one file for one tensor."""
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"embeddings.LayerNorm.bias": file}}))


def truncate(path: Path, size: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:size])


def quantise(tensors: dict[str, torch.Tensor]) -> None:
    tensors["encoder.layer.1.output.dense.weight"] = tensors["encoder.layer.1.output.dense.weight"].to(torch.int8)


Damage = Callable[[Path], object]
DAMAGE: dict[str, tuple[Damage, str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), r"config\.json is missing"),
    "config cut short": (lambda d: (d / "config.json").write_text('{"model_type"'), r"config\.json is not JSON"),
    "config of a list": (lambda d: (d / "config.json").write_text("[]"), "holds no JSON object"),
    "unknown kind": (lambda d: rewrite_config(d, model_type="mumble"), "model_type = 'mumble'.* kqv reads: bert, .*, t5, "),
    "no kind": (lambda d: rewrite_config(d, model_type=None), "lacks model_type, which is a string"),
    "a kind that is a list": (lambda d: rewrite_config(d, model_type=["bert"]), r"model_type = \['bert'\]"),
    "a field left out": (lambda d: rewrite_config(d, intermediate_size=None), "lacks intermediate_size, .* a whole number above 0"),
    "a width of text": (lambda d: rewrite_config(d, hidden_size="wide"), "hidden_size = 'wide'"),
    "a width of half": (lambda d: rewrite_config(d, hidden_size=35.5), "hidden_size = 35.5"),
    "a number of layers that is true": (lambda d: rewrite_config(d, num_hidden_layers=True), "num_hidden_layers = True"),
    "no layers": (lambda d: rewrite_config(d, num_hidden_layers=0), "num_hidden_layers = 0"),
    "no token types": (lambda d: rewrite_config(d, type_vocab_size=0), "type_vocab_size = 0"),
    "an epsilon of text": (lambda d: rewrite_config(d, layer_norm_eps="1e-5"), "layer_norm_eps = '1e-5'"),
    "an epsilon that is no number": (lambda d: rewrite_config(d, layer_norm_eps=float("nan")), "layer_norm_eps = nan"),
    "a flag of text": (lambda d: rewrite_config(d, tie_word_embeddings="yes"), "tie_word_embeddings = 'yes'"),
    "heads that don't divide": (lambda d: rewrite_config(d, num_attention_heads=6), "6 heads don't divide a width of 35"),
    "another activation": (lambda d: rewrite_config(d, hidden_act="mish"), "hidden_act = 'mish', .* kqv reads: gelu, "),
    "relative positions": (lambda d: rewrite_config(d, position_embedding_type="relative_key"), "kqv reads absolute positions"),
    "a decoder": (lambda d: rewrite_config(d, is_decoder=True), "is_decoder = True; kqv reads the encoder alone"),
    "quantised by its config": (lambda d: rewrite_config(d, quantization_config={"bits": 4}), "quantization_config"),
    "a width past all measure": (
        lambda d: rewrite_config(d, hidden_size=10**12),
        "hidden_size = 1000000000000, but no tensor is wider than 97",
    ),
    "layers past all number": (
        lambda d: rewrite_config(d, num_hidden_layers=10**12),
        r"num_hidden_layers = 10{12}, but there are 55",
    ),
    "positions past all measure": (
        lambda d: rewrite_config(d, max_position_embeddings=10**18),
        r"config\.json gives sizes past all measure",
    ),
    "more layers than weights": (lambda d: rewrite_config(d, num_hidden_layers=4), r"lack encoder\.layer\.3\..* and 11 more"),
    "fewer layers than weights": (lambda d: rewrite_config(d, num_hidden_layers=2), r"hold encoder\.layer\.2\..* no place"),
    "another width": (
        lambda d: rewrite_config(d, intermediate_size=59),
        r"encoder\.layer\.0\.intermediate\.dense\.weight \[53, 35\], which make \[53, 35\]; config\.json calls for \[59, 35\]",
    ),
    "parts that can't be joined": (
        lambda d: rewrite_tensors(
            d, lambda tensors: tensors.update({"encoder.layer.1.attention.self.key.weight": torch.zeros(7, 11)})
        ),
        r"encoder\.layer\.1\.attention\.self\.key\.weight \[7, 11\] and .*don't fit together; config\.json calls for \[105, 35\]",
    ),
    "a missing tensor": (
        lambda d: rewrite_tensors(d, lambda tensors: tensors.pop("embeddings.LayerNorm.bias")),
        r"lack embeddings\.LayerNorm\.bias, which config\.json calls for",
    ),
    "an extra tensor": (
        lambda d: rewrite_tensors(d, lambda tensors: tensors.update(extra=torch.zeros(1))),
        "hold extra, for which",
    ),
    "whole numbers": (lambda d: rewrite_tensors(d, quantise), r"encoder\.layer\.1\.output\.dense\.weight holds int8"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), r"model\.safetensors is missing"),
    "weights cut short": (lambda d: truncate(d / "model.safetensors", -100), r"model\.safetensors is damaged or cut short"),
    "header cut short": (lambda d: truncate(d / "model.safetensors", 20), r"model\.safetensors is damaged or cut short"),
    "empty weights": (lambda d: truncate(d / "model.safetensors", 0), r"model\.safetensors is damaged or cut short"),
    "noise": (lambda d: (d / "model.safetensors").write_bytes(b"\xff" * 4096), r"model\.safetensors is damaged or cut short"),
    "a shard in another folder": (lambda d: index(d, "../model.safetensors"), r"'\.\./model\.safetensors'; it should be"),
    "a shard with a path from the root": (lambda d: index(d, "/model.safetensors"), "'/model.safetensors'; it should be"),
    "a shard that is a pickle": (lambda d: index(d, "pytorch_model.bin"), r"'pytorch_model\.bin'; it should be"),
    "a shard without a name": (lambda d: index(d, 7), "has no weight_map"),
    "a shard that isn't there": (lambda d: index(d, "a.safetensors"), r"a\.safetensors is missing"),
    "tokenizer of noise": (lambda d: (d / "tokenizer.json").write_text("{}"), r"tokenizer\.json can't be read"),
    "pooling kqv lacks": (lambda d: modules(d, "max"), "asks for pooling_mode_max"),
    "modules of noise": (lambda d: (d / "modules.json").write_text("{}"), r"modules\.json holds no list"),
    "modules without types": (lambda d: (d / "modules.json").write_text("[{}]"), r"modules\.json lacks type"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused_by_name(directory: Path, damage: str) -> None:
    harm, message = DAMAGE[damage]
    harm(directory)
    with pytest.raises(kqv.CheckpointError, match=message):
        kqv.load(directory)


def test_a_missing_shard_is_named(shards: Path) -> None:
    second = sorted(shards.glob("model-*.safetensors"))[1]
    second.unlink()
    with pytest.raises(kqv.CheckpointError, match=f"{second.name} is missing"):
        kqv.load(shards)


def test_a_shard_that_lacks_what_the_index_promises_is_refused_by_the_tensors_name(shards: Path) -> None:
    for path in shards.glob("model-*.safetensors"):
        tensors = safetensors.torch.load_file(path)
        tensors.pop("model.norm.weight", None)
        safetensors.torch.save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    with pytest.raises(kqv.CheckpointError, match=r"lack model\.norm\.weight"):
        kqv.load(shards)


@pytest.mark.parametrize("ends", ["2", 2.0, -1, [2, None], {"a": 2}, True])
def test_an_end_that_is_no_token_is_refused(tmp_path: Path, ends: object) -> None:
    tiny.save(tmp_path, transformers.LlamaForCausalLM, transformers.LlamaConfig(**tiny.LLAMA))
    generation(tmp_path, eos_token_id=ends)
    with pytest.raises(kqv.CheckpointError, match=r"generation_config\.json has eos_token_id = "):
        kqv.load(tmp_path)


class Trap:
    """Unpickling it would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
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

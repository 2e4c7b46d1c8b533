"""The real RuAccent against `torch.nn.Transformer`, put together as its own accentor.py does; and what its pickle is made into."""

import json
import math
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import parity
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import kqv
from kqv.checkpoints import ruaccent

SENTENCES = (
    "мама мыла раму",
    "Я устало иду во главе своей армии, наступая на цветы.",
    "я",
    "Хотел я зайти в замок, но ключ в замок не подошёл.",
    "Привет, мир! Как дела?",
)


class Accentor(nn.Module):
    """Theirs: one table of characters for both sides, sines and cosines, torch's Transformer, a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(224, 256, padding_idx=0)
        self.register_buffer("positions", torch.zeros(256, 256))
        self.transformer = nn.Transformer(256, 8, 4, 4, 1024, batch_first=True)
        self.generator = nn.Linear(256, 224)

    def forward(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        mask = nn.Transformer.generate_square_subsequent_mask(len(target), dtype=self.positions.dtype)
        hidden = self.transformer(self.embed(source), self.embed(target), tgt_mask=mask)[0]
        return hidden, self.generator(hidden)

    def embed(self, ids: Tensor) -> Tensor:
        return (self.embedding(ids) * math.sqrt(256) + self.positions[: len(ids)])[None]


@contextmanager
def looking() -> Iterator[list[Tensor]]:
    """Keep the weights of every attention, [heads, queries, keys], which torch's layers don't ask for."""
    kept, forward = [], nn.MultiheadAttention.forward

    def look(self: nn.MultiheadAttention, *given: Any, **options: Any) -> tuple[Tensor, None]:
        output, weights = forward(self, *given, **(options | {"need_weights": True, "average_attn_weights": False}))
        kept.append(weights[0].detach())
        return output, None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.MultiheadAttention, "forward", look)
        yield kept


def expect(theirs: Accentor, source: list[int], target: list[int]) -> parity.Seen:
    """What they see; with gradients, since torch's fast path without them has no weights."""
    with looking() as kept:
        hidden, logits = theirs(torch.tensor(source), torch.tensor(target))
    weights = {"encoder": kept[:4], "decoder": kept[4::2], "cross": kept[5::2]}
    return parity.Seen({group: torch.stack(layers) for group, layers in weights.items()}, hidden.detach(), logits.detach())


def assert_parity(
    model: kqv.Model, theirs: Accentor, sources: list[list[int]], targets: list[list[int]], error: float = 1e-5
) -> None:
    """Weights within the error, hidden states and logits within it a unit of their scale."""
    for source, target, found in zip(sources, targets, parity.see_both(model, sources, targets), strict=True):
        expected = expect(theirs, source, target)
        for group, weights in expected.weights.items():
            torch.testing.assert_close(found.weights[group].reshape(weights.shape), weights, rtol=0, atol=error)
        for ours, other in ((found.hidden, expected.hidden), (found.logits, expected.logits)):
            torch.testing.assert_close(ours, other, rtol=0, atol=error * other.abs().max().item())


# In float32 theirs is itself 3e-5 off what it is in float64, since scores are in the hundreds.
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_every_weight_and_hidden_state_equals_torchs_transformer(
    ruaccent_directory: Path, dtype: torch.dtype, error: float
) -> None:
    model, theirs = kqv.load(ruaccent_directory, dtype=dtype), Accentor().eval()
    theirs.load_state_dict(load_file(ruaccent_directory / "model.safetensors"))
    theirs.to(dtype)
    sources = [list(model.tokenizer.encode(sentence).ids) for sentence in SENTENCES]
    sources.append(sources[0] + [0] * (256 - len(sources[0])))  # as their own code pads, and looks at the padding
    targets = [source[:-1] for source in sources[:-1]] + [sources[0]]
    assert_parity(model, theirs, sources, targets, error)


def test_russian_is_stressed(ruaccent: kqv.Model) -> None:
    [found] = ruaccent.generate(["мама мыла раму"], max_new_tokens=40)
    assert found.text.strip() == "ма'ма мыла' ра'му"
    assert found.finish_reason == "end"


def test_the_decoder_follows_the_source_letter_by_letter(ruaccent: kqv.Model) -> None:
    """On its own text: in the last layer heads 2 and 4 look at the letter that comes next, or at its neighbour."""
    [found] = ruaccent.analyze(["мама мыла раму"])
    _, apostrophe, _ = ruaccent.tokenizer.encode("'").ids
    written = torch.tensor([token != apostrophe for token in found.target_token_ids])
    places = written.cumsum(0)[:-1]  # in the source, of the letter that comes next; the last query writes the end
    looked_at = found.attention["cross"].weights[3, :, :-1].argmax(-1)
    for head in (2, 4):
        assert ((looked_at[head] - places).abs() <= 1).all()


def test_text_is_read_character_by_character(ruaccent: kqv.Model) -> None:
    found = ruaccent.tokenizer.encode("Мама, 東京\n!")
    assert found.tokens == ("<s>", *"Мама, ", "<unk>", "<unk>", "<unk>", "!", "</s>")
    assert ruaccent.tokenizer.special_ids == {0, 1, 2, 3}


def own_names(theirs: Accentor) -> dict[str, Tensor]:
    """The tensors as accentor.py calls them."""
    names = {"embedding": "embed.char_embed", "positions": "embed.pos_encoding", "generator": "output_proj"}
    state = {}
    for name, tensor in theirs.state_dict().items():
        first, dot, rest = name.partition(".")
        state[names.get(first, first) + dot + rest] = tensor[None] if name == "positions" else tensor
    return state


def test_the_pickle_becomes_files_that_are_read_as_any_other(tmp_path: Path) -> None:
    theirs = Accentor().eval()
    nn.init.normal_(theirs.positions)
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *map(chr, range(1000, 1220))])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    torch.save(own_names(theirs), tmp_path / "acc_model.pt")
    (tmp_path / "made").mkdir()
    ruaccent.convert(tmp_path, tmp_path / "made")
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"config.json", "model.safetensors", "tokenizer.json"}
    model = kqv.load(tmp_path / "made")
    assert model.config.positions == "sinusoidal"
    assert_parity(model, theirs, [[1, 5, 7, 11, 2], [1, 2]], [[1, 13, 17], [1, 5, 7, 5]])
    assert model.tokenizer.encode(chr(1000) + "?").ids == (1, 4, 3, 2)


def test_a_pickle_that_runs_something_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "run",))

    torch.save(Trap(), tmp_path / "acc_model.pt")
    with pytest.raises(pickle.UnpicklingError):
        ruaccent.convert(tmp_path, tmp_path)
    assert not (tmp_path / "run").exists()

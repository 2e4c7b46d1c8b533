"""A GGUF file that lies about itself is refused by name, before the lie costs anything."""

import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import parity
import pytest
import tiny_gguf
import torch

import kqv
from kqv.checkpoints.gguf_file import GgufFile


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A Llama with its tokenizer."""
    reference = tiny_gguf.llama()
    said = tiny_gguf.metadata(reference) | tiny_gguf.described(tiny_gguf.bpe("smollm"), "smollm")
    return tiny_gguf.write(tmp_path / "model.gguf", said, tiny_gguf.tensors(reference))


def patched(content: bytes, after: bytes, skip: int, layout: str, value: object) -> bytes:
    """Another value so many bytes behind the first place where something stands."""
    place = content.index(after) + len(after) + skip
    return content[:place] + struct.pack(layout, value) + content[place + struct.calcsize(layout) :]


Lie = Callable[[bytes], bytes]
MERGES, TYPES, NORM = b"tokenizer.ggml.merges", b"tokenizer.ggml.token_type", b"output_norm.weight"
HUGE = 1 << 60
LIES: dict[str, tuple[Lie, str]] = {
    "empty": (lambda content: b"", "is empty"),
    "another magic": (lambda content: b"GGML" + content[4:], "begins with b'GGML', not b'GGUF'"),
    "the first version": (lambda content: patched(content, b"GGUF", 0, "<I", 1), "its version is 1; kqv reads 2 and 3"),
    "big-endian": (lambda content: patched(content, b"GGUF", 0, ">I", 3), "its version is 50331648; .* little-endian"),
    "too many tensors": (lambda content: patched(content, b"GGUF", 4, "<Q", HUGE), "damaged|UTF-8|the type"),
    "too much metadata": (lambda content: patched(content, b"GGUF", 12, "<Q", HUGE), "damaged|UTF-8|the type"),
    "a list without end": (lambda content: patched(content, MERGES, 8, "<Q", HUGE), f"an array of {HUGE} values is announced"),
    "numbers without end": (lambda content: patched(content, TYPES, 8, "<Q", HUGE), f"an array of {HUGE} values is announced"),
    "numbers past the end": (lambda content: patched(content, TYPES, 8, "<Q", 1 << 21), f"{1 << 23} bytes are announced"),
    "a text without end": (lambda content: patched(content, b"tokenizer.ggml.pre", 4, "<Q", HUGE), f"{HUGE} bytes are announced"),
    "a text of noise": (lambda content: content.replace(b"smollm", b"\xff" * 6), "is not UTF-8"),
    "an array of arrays": (lambda content: patched(content, TYPES, 4, "<I", 9), "an array of arrays"),
    "an unknown type": (lambda content: patched(content, b"llama.block_count", 0, "<I", 99), "names the type 99"),
    "an unknown quantisation": (lambda content: patched(content, NORM, 12, "<I", 99), "names the type 99"),
    "axes without end": (lambda content: patched(content, NORM, 0, "<I", 1 << 31), "17179869184 bytes are announced"),
    "a huge axis": (
        lambda content: patched(content, NORM, 4, "<Q", HUGE),
        r"output_norm\.weight ends at byte \d+, but the file at",
    ),
    "an axis of 0": (lambda content: patched(content, NORM, 4, "<Q", 0), r"output_norm\.weight can't be \[0\] as F32"),
    "broken blocks": (lambda content: patched(content, NORM, 12, "<I", 8), r"output_norm\.weight can't be \[42\] as Q8_0"),
    "an offset past the end": (lambda content: patched(content, NORM, 16, "<Q", HUGE), "ends at byte .* or its table lies"),
    "an odd offset": (
        lambda content: patched(content, NORM, 16, "<Q", 33),
        "at 33: that is no whole number of blocks at a multiple of 32",
    ),
    "one name twice": (
        lambda content: content.replace(b"blk.1.attn_q.weight", b"blk.0.attn_q.weight"),
        "two tensors have one name",
    ),
    "cut short": (lambda content: content[:-100], "ends at byte .* it is cut short"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_found_before_it_costs_anything(file: Path, name: str) -> None:
    lie, message = LIES[name]
    file.write_bytes(lie(file.read_bytes()))
    with pytest.raises(kqv.CheckpointError, match=message):
        kqv.load(file)


@pytest.mark.parametrize("alignment", [0, 1, 12, "wide"])
def test_alignment_is_a_multiple_of_8(tmp_path: Path, alignment: object) -> None:
    path = tiny_gguf.write(tmp_path / "model.gguf", {"general.alignment": alignment}, {})
    with pytest.raises(kqv.CheckpointError, match=f"general.alignment is {alignment!r}, not a multiple of 8"):
        GgufFile(path)


def test_another_alignment_is_kept_to(tmp_path: Path) -> None:
    reference = tiny_gguf.llama()
    said = tiny_gguf.metadata(reference) | {"general.alignment": 256}
    parity.assert_one_sided_parity(
        kqv.load(tiny_gguf.write(tmp_path / "model.gguf", said, tiny_gguf.tensors(reference))), reference
    )


def test_a_file_cut_anywhere_is_refused(file: Path) -> None:
    content = file.read_bytes()
    for size in [*range(1, 2000, 37), *range(2000, len(content), 1009)]:
        file.write_bytes(content[:size])
        with pytest.raises(kqv.CheckpointError):
            GgufFile(file)


def test_a_changed_byte_does_no_worse_than_an_error(file: Path) -> None:
    content = file.read_bytes()
    tables = content.index(b"blk.2.ffn_up.weight")
    for _ in range(200):
        place, value = int(torch.randint(tables, ())), int(torch.randint(256, ()))
        file.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
        with suppress(kqv.CheckpointError):
            kqv.load(file)

"""The C part is found where it was built, compiled where it wasn't, and done without where that can't be."""

import logging
import subprocess
from pathlib import Path

import pytest
import torch

from kqv.native import figures
from kqv.native import library as native

CAPABILITY = torch.backends.cpu.get_cpu_capability()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and nothing built."""
    monkeypatch.setattr(native, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(native, "BUILT", tmp_path / "built")
    return tmp_path / "cache"


@pytest.mark.skipif("native.library() is None", reason="there is no C compiler here")
def test_what_was_compiled_is_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = cache.parent / "small.c"  # the sources take eight seconds
    small.write_text("int small(void) { return 5; }")
    monkeypatch.setattr(native, "SOURCES", [small])
    assert native.library.__wrapped__() is not None
    [made] = cache.glob("*.so")
    assert made.name == native.file_name(CAPABILITY)
    monkeypatch.setattr(native, "compile_for", lambda *args: pytest.fail("compiled again"))
    assert native.library.__wrapped__() is not None


def test_without_a_compiler_there_is_none(cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    with caplog.at_level(logging.WARNING):
        assert native.library.__wrapped__() is None
    assert "there is no C compiler: install gcc or clang" in caplog.text
    assert not list(cache.glob("*.so"))


def test_what_fails_to_compile_is_done_without(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = cache.parent / "broken.c"
    broken.write_text("this is not C")
    monkeypatch.setattr(native, "SOURCES", [broken])
    if native.shutil.which("cc") is None:
        pytest.skip("there is no C compiler here")
    with caplog.at_level(logging.WARNING):
        assert native.library.__wrapped__() is None
    assert "broken.c" in caplog.text


def test_a_built_one_comes_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native.BUILT.mkdir()
    (native.BUILT / native.file_name(CAPABILITY)).write_bytes(b"not a library")
    assert native.library.__wrapped__() is None  # it was taken, and can't be read
    assert not cache.exists()


def test_the_name_changes_with_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {native.file_name(kind) for kind in ("AVX2", "AVX512", "DEFAULT")}
    assert len(before) == 3
    changed = tmp_path / "attention.c"
    changed.write_text("/* another */")
    monkeypatch.setattr(native, "SOURCES", [changed])
    assert not before & {native.file_name(kind) for kind in ("AVX2", "AVX512", "DEFAULT")}


@pytest.mark.skipif("native.library() is None", reason="there is no C compiler here")
def test_every_kind_of_processor_is_compiled_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without optimising, which takes five times as long: what a kind of processor doesn't have is found all the same."""
    monkeypatch.setattr(native, "FLAGS", ["-O0" if flag == "-O3" else flag for flag in native.FLAGS])
    for kind in native.MACHINES:
        target = tmp_path / native.file_name(kind)
        try:
            native.compile_for(kind, target)
        except subprocess.CalledProcessError:
            pytest.skip("this machine's compiler makes code for another kind of processor")
        assert target.stat().st_size > 0


@pytest.mark.skipif("native.library() is None", reason="there is no C compiler here")
@pytest.mark.parametrize(("tokens", "heads", "rows", "width"), [(1, 1, 1, 1), (67, 3, 7, 11), (130, 2, 101, 103), (64, 1, 32, 32)])
def test_lengths_equal_those_of_what_the_heads_add(tokens: int, heads: int, rows: int, width: int) -> None:
    outputs, factors = torch.randn(tokens, heads, width), torch.randn(heads, rows, width)
    found = figures.lengths(outputs, factors)
    expected = (outputs.double().transpose(0, 1) @ factors.double().mT).norm(dim=-1)
    torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=1e-6)


@pytest.mark.skipif("native.library() is None", reason="there is no C compiler here")
@pytest.mark.parametrize("told_apart", [False, True])
def test_sums_equal_those_over_each_sequence(told_apart: bool) -> None:
    parts, heads = (5, 1, 61), 3
    planes = [torch.randn(heads, sum(parts)) for _ in range(2)]
    counted = (torch.rand(2, heads if told_apart else 1, sum(parts)) < 0.5).float()
    found = figures.sums(planes, counted, parts)
    for s, rows in enumerate(torch.arange(sum(parts)).split(parts)):
        expected = (torch.stack(planes)[..., rows] * counted[..., rows]).sum(-1)
        torch.testing.assert_close(found[..., s], expected, rtol=1e-5, atol=1e-5)


def test_other_types_are_left_to_torch() -> None:
    assert figures.lengths(torch.randn(2, 1, 3).double(), torch.randn(1, 3, 3).double()) is None
    assert figures.sums([torch.randn(1, 2).bfloat16()], torch.ones(1, 1, 2), (2,)) is None

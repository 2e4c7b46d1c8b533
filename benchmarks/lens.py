"""TransformerLens beside kqv, in an environment of its own that sees this one's packages: its needs would change theirs."""

import subprocess
import sysconfig
import venv
from pathlib import Path

from benchmarks.rivals import SCRATCH
from benchmarks.server import ROOT

REQUIREMENT = "transformer-lens==3.9.0"
FOLDER = SCRATCH / "transformer_lens"


def run() -> None:
    """Install it where it isn't yet, and run both in one process."""
    install()
    subprocess.run([FOLDER / "bin" / "python", "-m", "benchmarks.rivals.with_transformer_lens"], cwd=ROOT, check=True)


def install() -> None:
    stamp = FOLDER / "installed"
    if stamp.exists():
        return
    venv.create(FOLDER, with_pip=True, clear=True)
    [packages] = FOLDER.glob("lib/python*/site-packages")
    (packages / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip: list[str | Path] = [FOLDER / "bin" / "python", "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
    subprocess.run([*pip, REQUIREMENT], check=True)
    stamp.touch()

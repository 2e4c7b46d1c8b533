"""How long `kqv serve` takes to be ready, against importing torch and reading the weights alone."""

import subprocess
import sys
from pathlib import Path

from benchmarks.server import serving
from benchmarks.side_by_side import side_by_side
from kqv.store import find

READ = "import torch, safetensors.torch, sys; [t.sum() for t in safetensors.torch.load_file(sys.argv[1]).values()]"


def run() -> None:
    """Both as processes of their own."""
    weights = find("minilm") / "model.safetensors"
    rivals = {"import torch, read the weights": lambda: read_weights(weights), "kqv serve, until ready": serve_until_ready}
    side_by_side("Readiness, MiniLM", rivals, rounds=7)


def read_weights(path: Path) -> None:
    subprocess.run([sys.executable, "-c", READ, str(path)], check=True)


def serve_until_ready() -> None:
    with serving():
        pass

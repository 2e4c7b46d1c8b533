"""Checkpoints on disk, read into kqv's own names. A file is judged by what it says, never by what its folder is called."""

from pathlib import Path

from kqv.checkpoints import gguf, hf_directory
from kqv.checkpoints.hf_directory import Checkpoint
from kqv.errors import CheckpointError

__all__ = ["Checkpoint", "read_checkpoint"]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a directory as Hugging Face lays it out, or a GGUF file, be it named or the only one in a directory without config.json.

    Raises `CheckpointError`, naming the file and what is wrong with it.
    """
    if path.is_file():
        return gguf.read_gguf(path)
    files = [] if (path / "config.json").exists() else sorted(path.glob("*.gguf"))
    if len(files) > 1:
        raise CheckpointError(f"{path} holds {', '.join(file.name for file in files)}; name one of them")
    return gguf.read_gguf(files[0]) if files else hf_directory.read_checkpoint(path)

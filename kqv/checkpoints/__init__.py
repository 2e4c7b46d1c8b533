"""Checkpoints on disk, read into kqv's own names. A file is judged by what it says, never by what its folder is called."""

from kqv.checkpoints.hf_directory import Checkpoint, read_checkpoint

__all__ = ["Checkpoint", "read_checkpoint"]

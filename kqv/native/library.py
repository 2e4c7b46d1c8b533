"""The C part of the engine, compiled by the machine's own compiler when it is first needed, and kept.

Without a C compiler there is none, and the torch forms do its work. It needs no headers but C's own: pointers and sizes go in.
"""

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock

logger = logging.getLogger(__name__)

SOURCES = sorted(Path(__file__).parent.glob("*.[ch]"))
BUILT = Path(__file__).parent / "built"
"""Where an image brings the library ready made."""
CACHE = Path.home() / ".cache" / "kqv" / "native"

FLAGS = ["-std=gnu11", "-O3", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC"]
MACHINES = {"AVX512": ["-march=x86-64-v4", "-mprefer-vector-width=512"], "AVX2": ["-march=x86-64-v3"]}
"""What to compile for, by torch's name of what the processor can do; the compiler's default for all others."""


@cache
def library() -> ctypes.CDLL | None:
    """The library for this machine, compiled now if it was not before; None where that can't be done."""
    name = file_name(torch.backends.cpu.get_cpu_capability())
    try:
        built = BUILT / name
        return ctypes.CDLL(str(built if built.exists() else compiled(CACHE / name)))
    except (OSError, subprocess.CalledProcessError) as error:
        said = error.stderr.decode(errors="replace") if isinstance(error, subprocess.CalledProcessError) else str(error)
        logger.warning("the C part can't be used, so that attention is slower: %s", said.strip())
        return None


def built() -> ctypes.CDLL:
    """The library, for those who have asked whether there is one."""
    native = library()
    assert native is not None
    return native


def file_name(capability: str) -> str:
    """A name that changes with the sources and with what they are compiled for."""
    digest = hashlib.sha256(repr((FLAGS, MACHINES.get(capability))).encode())
    for source in SOURCES:
        digest.update(source.read_bytes())
    return f"{capability.lower().replace(' ', '-')}-{digest.hexdigest()[:16]}.so"


def compiled(target: Path) -> Path:
    """The library at its place in the cache. Raises `OSError` or `CalledProcessError` where it can't be made."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):  # several replicas may start at once
            if not target.exists():
                compile_for(torch.backends.cpu.get_cpu_capability(), target)
    return target


def compile_for(capability: str, target: Path) -> None:
    """Compile for a kind of processor. Raises `FileNotFoundError` without a compiler, `CalledProcessError` where it fails."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        raise FileNotFoundError("there is no C compiler: install gcc or clang")
    logger.info("compiling the C part for %s, which takes some seconds", capability)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        files = [str(source) for source in SOURCES if source.suffix == ".c"]
        command = [compiler, *FLAGS, *MACHINES.get(capability, ()), *files, "-o", str(made), "-lm"]
        subprocess.run(command, check=True, capture_output=True)
        os.replace(made, target)  # at once, so that nobody loads half of it

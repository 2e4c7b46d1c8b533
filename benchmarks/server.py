"""kqv servers, each a process of its own on a free loopback port, for as long as a benchmark needs them."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Server:
    """A server that can be ended in several ways, and started again where it was."""

    def __init__(self, model: str | Path = "minilm", **settings: object) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        given: dict[str, object] = {"KQV_PORT": self.port, "KQV_MODELS": model, "KQV_LOG_LEVEL": "WARNING"}
        given |= {f"KQV_{name.upper()}": value for name, value in settings.items()}
        self._environment = os.environ | {name: str(value) for name, value in given.items()}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin to start."""
        self.process = subprocess.Popen([sys.executable, "-m", "service"], cwd=ROOT, env=self._environment)

    def wait_until_ready(self, seconds: float = 150.0) -> None:
        """Ask until it is ready. Raises `RuntimeError` if it ends instead, or takes too long."""
        stop_at = time.monotonic() + seconds
        while self.process is not None and self.process.poll() is None and time.monotonic() < stop_at:
            if self.is_ready():
                return
            time.sleep(0.02)
        raise RuntimeError(f"the server at {self.address} was not ready within {seconds:g} s")

    def is_ready(self) -> bool:
        """What /readyz says; asked by http.client, since httpx takes 30 ms of CPU to make a client, which the server needs."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def end(self, how: signal.Signals = signal.SIGKILL, seconds: float = 150.0) -> int | None:
        """Send it a signal, and wait until it is gone; returns its exit status, if it ran."""
        if self.process is None:
            return None
        self.process.send_signal(how)
        return self.process.wait(seconds)

    @property
    def memory_mb(self) -> float:
        """Its resident memory."""
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextlib.contextmanager
def serving(model: str | Path = "minilm", **settings: object) -> Iterator[Server]:
    """A server that is ready; it is killed on leaving: nothing is under way, and a graceful end would wait for a load balancer."""
    server = Server(model, **settings)
    server.start()
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.end()

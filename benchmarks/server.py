"""A kqv server of its own process on a free loopback port, for as long as a benchmark needs it."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx


@contextlib.contextmanager
def serving(model: str = "minilm") -> Iterator[str]:
    """The address of a server that is ready; it is stopped on leaving."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"KQV_PORT": str(port), "KQV_MODELS": model}
    server = subprocess.Popen(
        [sys.executable, "-m", "service"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(address, server)
        yield address
    finally:
        server.kill()  # nothing is under way, and a graceful end would wait for the load balancer
        server.wait()


def wait_until_ready(address: str, server: subprocess.Popen[bytes]) -> None:
    """Ask until the server is ready. Raises `RuntimeError` if it ends instead."""
    while server.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{address}/readyz").status_code == 200:
                return
        time.sleep(0.01)
    raise RuntimeError("the server ended before it was ready")

"""Replicas behind the balancer of deploy/, which is started as it is."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.server import ROOT, Server, free_port

HAPROXY = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
"""Debian keeps it where only root looks."""

CONFIGURATION = ROOT / "deploy" / "haproxy.cfg"


@dataclass(frozen=True)
class Cluster:
    """The balancer's addresses, and the replicas behind it."""

    address: str
    stats: str
    replicas: Sequence[Server]

    def replace(self, replica: Server, how: signal.Signals) -> int | None:
        """End a replica, start it again and wait until it is ready; returns its exit status."""
        status = replica.end(how)
        replica.start()
        replica.wait_until_ready()
        return status


@contextlib.contextmanager
def cluster(model: str | Path, **settings: object) -> Iterator[Cluster]:
    """Three replicas that are ready, with a thread each, since they share one machine; and the balancer before them."""
    replicas = [Server(model, threads=1, **settings) for _ in range(3)]
    with contextlib.ExitStack() as stack:
        for replica in replicas:
            stack.callback(replica.end)
            replica.start()
        with ThreadPoolExecutor(len(replicas)) as waiting:
            list(waiting.map(Server.wait_until_ready, replicas))
        yield stack.enter_context(balanced(replicas))


@contextlib.contextmanager
def balanced(replicas: Sequence[Server]) -> Iterator[Cluster]:
    """The balancer before three servers."""
    assert HAPROXY, "haproxy is not installed"
    port, stats_port = free_port(), free_port()
    environment = os.environ | {"KQV_BIND": f"127.0.0.1:{port}", "KQV_STATS_BIND": f"127.0.0.1:{stats_port}"}
    environment |= {f"KQV_REPLICA_{index}": f"127.0.0.1:{replica.port}" for index, replica in enumerate(replicas, 1)}
    command = [HAPROXY, "-db", "-f", str(CONFIGURATION)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as balancer:
        try:
            stats = f"http://127.0.0.1:{stats_port}"
            with httpx.Client(transport=httpx.HTTPTransport(retries=10)) as client:  # it listens a moment after it was started
                client.get(f"{stats}/livez").raise_for_status()
            yield Cluster(f"http://127.0.0.1:{port}", stats, replicas)
        finally:
            balancer.kill()

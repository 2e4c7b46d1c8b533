"""The process: it starts by its environment, loads, serves, drains and stops."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx
import pytest
import tiny

ROOT = Path(__file__).parents[2]
DRAIN_S = 1.0


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    tiny.bert(directory)
    return directory


@contextmanager
def process(**settings: object) -> Iterator[subprocess.Popen[str]]:
    """`python -m service` with these settings, on a free port."""
    environment = os.environ | {"KQV_PORT": "0"} | {f"KQV_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "service"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as running:
        yield running
        running.kill()


def address(log: IO[str] | None) -> str:
    """Where the server listens, as soon as it says so."""
    assert log is not None
    for line in log:
        if found := re.search(r"running on (http://\S+)", line):
            return found[1]
    raise AssertionError("the server never listened")


def wait_until_ready(client: httpx.Client) -> None:
    for _ in range(500):
        response = client.get("/readyz")
        if response.status_code == 200:
            return
        assert response.status_code == 503, response.text
        time.sleep(0.01)
    raise AssertionError("the server was never ready")


def test_sigterm_drains_and_then_stops_cleanly(checkpoint: Path) -> None:
    with process(models=checkpoint, drain_s=DRAIN_S) as server, httpx.Client(base_url=address(server.stderr)) as client:
        wait_until_ready(client)
        assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
        server.send_signal(signal.SIGTERM)
        told = time.monotonic()
        wait_until_draining(client)
        assert client.get("/livez").status_code == 200
        response = client.post("/v1/analyze", json={"input": "the cat"})
        assert response.status_code == 200
        assert response.headers["connection"] == "close"
        client.close()
        assert server.wait(60) == 0
        assert time.monotonic() - told >= DRAIN_S


def wait_until_draining(client: httpx.Client) -> None:
    for _ in range(100):
        response = client.get("/readyz")
        if response.status_code == 503:
            assert "about to stop" in response.json()["detail"]
            return
        time.sleep(0.005)
    raise AssertionError("the server never drained")


def test_interrupt_stops_at_once(checkpoint: Path) -> None:
    with process(models=checkpoint, drain_s=60) as server:
        address(server.stderr)
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0


def test_models_that_cannot_be_loaded_end_the_process(tmp_path: Path) -> None:
    with process(models=tmp_path) as server:
        _, log = server.communicate(timeout=120)
    assert server.returncode == 1
    assert "the models can't be loaded: " in log
    assert "config.json is missing" in log
    assert "Traceback" not in log


def test_device_that_fails_for_good_ends_the_process(checkpoint: Path) -> None:
    """So that whatever runs it starts a new one: here a worker is ended from outside, as nothing in the service would."""
    script = f"""
import threading
from service.work.analyzing import Analyze
from service.server import serve
from service.settings import Settings

def dies(self, jobs):
    if len(jobs[0].sequence) == 7:
        raise SystemExit
    return self.model.analyze_jobs(jobs)

Analyze.__call__ = dies
serve(Settings(models=({str(checkpoint)!r},), port=0))
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, text=True) as server:
        with httpx.Client(base_url=address(server.stderr)) as client:
            wait_until_ready(client)
            assert client.post("/v1/analyze", json={"input": [5] * 3}).status_code == 200
            assert client.post("/v1/analyze", json={"input": [5] * 7}).status_code == 500
        assert server.wait(20) == 1


def test_log_is_of_one_form_and_warns_of_an_open_door(checkpoint: Path) -> None:
    with process(models=checkpoint, log_format="json", host="0.0.0.0") as server:
        assert server.stderr is not None
        lines = []
        for line in server.stderr:
            lines.append(json.loads(line))  # uvicorn's own lines too
            if "running on" in lines[-1]["message"]:
                break
        server.send_signal(signal.SIGINT)
        lines += [json.loads(line) for line in server.stderr]
        assert server.wait(60) == 0
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    [warning] = [line["message"] for line in lines if line["level"] == "WARNING"]
    assert warning == "no API keys are set: everyone who reaches 0.0.0.0 may use this service"


ARENAS = """
import ctypes, threading
from service.server import bound_free_memory

bound_free_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.fopen.restype = ctypes.c_void_p, ctypes.c_void_p
together = threading.Barrier(16)

def take():
    libc.malloc(ctypes.c_size_t(1 << 10))
    together.wait()

threads = [threading.Thread(target=take) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
out = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


RESIDENT = """
from pathlib import Path
from service.server import bound_free_memory, give_back_free_memory

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

bound_free_memory()
"""

HOLES = """
stays, before = [], resident_mb()
for _ in range(3):  # having seen them go, glibc would by itself keep such blocks from the second time on
    goes = []
    for _ in range(20):
        goes.append(bytearray(2_000_000))
        stays.append(bytes(50_000))
del goes
print(resident_mb() - before)
"""

AMID = """
goes, stays = [], []
for _ in range(600):
    goes.append(b"x" * 100_000)
    stays.append(b"x" * 1_000)
before = resident_mb()
del goes
give_back_free_memory()
print(before - resident_mb())
"""

is_glibc = pytest.mark.skipif("not hasattr(__import__('ctypes').CDLL(None), 'malloc_info')", reason="this C library isn't glibc")


@is_glibc
def test_threads_share_their_free_memory() -> None:
    told = subprocess.run([sys.executable, "-c", ARENAS], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert told.count("<heap nr=") == 1


@is_glibc
def test_what_is_large_goes_back_to_the_system_whatever_stays_beside_it() -> None:
    told = subprocess.run([sys.executable, "-c", RESIDENT + HOLES], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert float(told) < 10, "3 MB stay, 40 went"


@is_glibc
def test_what_is_free_amid_the_store_goes_back_too() -> None:
    told = subprocess.run([sys.executable, "-c", RESIDENT + AMID], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert float(told) > 50, "60 MB went"

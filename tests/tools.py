"""What some tests need, and can do nothing without: programs that pip can't install, and packages that not every machine has."""

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

PACKAGES = {"chromium": "chromium", "haproxy": "haproxy", "prometheus": "prometheus", "promtool": "prometheus"}
"""The Debian packages that have them; `.ci/run` installs these."""


def tool(name: str) -> str:
    """The program; without it the test is skipped, or fails where KQV_REQUIRE_TOOLS is set, as in continuous integration."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
    if found is None:
        do_without(f"needs {name}: apt-get install {PACKAGES[name]}")
    return found


def package(name: str) -> None:
    """Without the Python package the test is skipped, or fails likewise."""
    if find_spec(name) is None:
        do_without(f"needs {name}: pip install {name}, where there is one for this machine")


def do_without(missing: str) -> NoReturn:
    if os.environ.get("KQV_REQUIRE_TOOLS"):
        pytest.fail(missing)
    pytest.skip(missing)


def axe() -> str:
    """The script that finds what assistive technology would stumble over; npm has it."""
    script = Path(__file__).parents[1] / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        do_without("needs axe-core: make javascript")
    return script.read_text(encoding="utf-8")


def promtool(*arguments: str | Path, given: bytes = b"") -> str:
    """What promtool says, which has to be content."""
    command = [tool("promtool"), *map(str, arguments)]
    done = subprocess.run(command, input=given, capture_output=True, check=False, timeout=60)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said

"""Programs that some tests need, which pip can't install."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGES = {"chromium": "chromium", "haproxy": "haproxy", "promtool": "prometheus"}
"""The Debian packages that have them; `.ci/run` installs these."""


def tool(name: str) -> str:
    """The program; without it the test is skipped, or fails where KQV_REQUIRE_TOOLS is set, as in continuous integration."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
    if found is None:
        missing = f"needs {name}: apt-get install {PACKAGES[name]}"
        if os.environ.get("KQV_REQUIRE_TOOLS"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


def promtool(*arguments: str | Path, given: bytes = b"") -> str:
    """What promtool says, which has to be content."""
    command = [tool("promtool"), *map(str, arguments)]
    done = subprocess.run(command, input=given, capture_output=True, check=False, timeout=60)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said

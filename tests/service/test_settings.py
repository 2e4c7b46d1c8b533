"""Every setting can be given by the environment, says what it is for, and is read by something."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

import service
from service.settings import Settings

UNITS = ("_s", "_ms", "_bytes", "_tokens", "_sequences", "_numbers", "_cells", "_values", "_headers", "_requests")
SOURCES = "".join(file.read_text() for file in Path(service.__path__[0]).rglob("*.py") if file.name != "settings.py")


def test_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PORT": "9001", "MODELS": "minilm, /srv/gpt2,", "THREADS": "3", "DRAIN_S": "0.5", "STORE": "/srv"}.items():
        monkeypatch.setenv(f"KQV_{name}", value)
    settings = Settings()
    assert (settings.port, settings.threads, settings.drain_s, settings.store) == (9001, 3, 0.5, Path("/srv"))
    assert settings.models == ("minilm", "/srv/gpt2")


@pytest.mark.parametrize(("name", "value"), [("PORT", "70000"), ("MODELS", ""), ("DTYPE", "int8"), ("MAX_BODY_BYTES", "-1")])
def test_nonsense_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"KQV_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_setting_is_described_and_read(name: str) -> None:
    description = Settings.model_fields[name].description
    assert description
    assert description.endswith(".")
    assert re.search(rf"settings\.{name}\b", SOURCES), f"nothing reads {name}"


def test_limits_have_their_unit_in_their_name() -> None:
    limits = [name for name in Settings.model_fields if name.startswith(("max_", "inline_"))]
    assert limits
    assert all(name.endswith(UNITS) for name in limits)

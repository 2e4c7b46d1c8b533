"""docker-compose.yml: valid by the compose specification, and true to the files that it names."""

import json
import re
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml

ROOT = Path(__file__).parents[1]
COMPOSED = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSED["services"]


def test_the_specification_allows_it() -> None:
    compose_spec.PyCompose.from_json(json.dumps(COMPOSED))


@pytest.mark.parametrize(
    ("right", "wrong"), [('"read_only"', '"readonly"'), ('"unless-stopped"', '"sometimes"'), ('"10s"', '"10q"')]
)
def test_the_specification_would_refuse_a_mistake(right: str, wrong: str) -> None:
    assert right in json.dumps(COMPOSED)
    with pytest.raises(ValueError, match="line 1 column"):
        compose_spec.PyCompose.from_json(json.dumps(COMPOSED).replace(right, wrong))


def test_what_is_mounted_is_there() -> None:
    sources = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    folders = {source for source in sources if source.startswith(".")}
    assert folders
    assert [folder for folder in folders if not (ROOT / folder).exists()] == []
    assert sources - folders == COMPOSED["volumes"].keys()


def test_the_balancer_knows_the_replicas_and_nobody_else_can_reach_them() -> None:
    configuration = (ROOT / "deploy" / "haproxy.cfg").read_text()
    replicas = {name for name, service in SERVICES.items() if service["image"] == "kqv" and name != "pull"}
    assert set(re.findall(r"\$\{KQV_REPLICA_\d-([\w-]+):8000\}", configuration)) == replicas
    assert not any("ports" in SERVICES[name] for name in replicas)
    assert all(port.startswith("127.0.0.1:") for service in SERVICES.values() for port in service.get("ports", []))


def test_nothing_runs_with_more_rights_than_it_needs() -> None:
    for name, service in SERVICES.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "mem_limit" in service, name

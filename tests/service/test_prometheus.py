"""A real Prometheus with deploy/'s rules, which asks a real server: every panel of the dashboard has something to draw."""

import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import listening, make_app
from tools import tool

import kqv

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "kqv.json").read_text(encoding="utf-8"))
EXPRESSIONS = [
    pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", [])
    if "kqv_device_memory" not in target["expr"]  # only where there is a GPU
]
RECORDED = re.findall(r"record: (\S+)", RULES.read_text(encoding="utf-8"))
FILLED = {"__rate_interval": "5s", "instance": ".+", "route": ".+", "model": "tiny", "group": "encoder"}
"""What Grafana would put in."""
Query = Callable[[str], list[dict[str, Any]]]


def configuration(target: str) -> str:
    """Like deploy/prometheus/prometheus.yml, but of one replica, and in a hurry."""
    return json.dumps(
        {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "kqv", "static_configs": [{"targets": [target]}]}],
        }
    )


def keep_asking(url: str, is_over: threading.Event) -> None:
    """Requests that are answered, and one that is refused, until there have been enough."""
    with httpx.Client(base_url=url) as client:
        while not is_over.wait(0.05):
            client.post("/v1/analyze", json={"input": ["the cat sat", "the"]})
            client.post("/v1/analyze", json={"input": "the", "layers": [99]})


@pytest.fixture(scope="module")
def query(model: kqv.Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Query]:
    """What Prometheus answers to an expression, as soon as that is anything, or after half a minute."""
    program, folder, is_over = tool("prometheus"), tmp_path_factory.mktemp("prometheus"), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with listening(make_app(model, head_metrics=("tiny/entropy", "tiny/first"))) as url:
        (folder / "prometheus.yml").write_text(configuration(url.removeprefix("http://")))
        caller = threading.Thread(target=keep_asking, args=(url, is_over))
        caller.start()
        options = [
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={address}",
        ]
        running = subprocess.Popen([program, *options, "--log.level=error"], cwd=folder)
        ends = time.monotonic() + 30

        def ask(expression: str) -> list[dict[str, Any]]:
            while True:
                try:
                    answer = httpx.get(f"http://{address}/api/v1/query", params={"query": expression}).json()
                    assert answer["status"] == "success", answer
                    if answer["data"]["result"] or time.monotonic() > ends:
                        found: list[dict[str, Any]] = answer["data"]["result"]
                        return found
                except (httpx.TransportError, json.JSONDecodeError):  # it is still starting
                    assert time.monotonic() < ends
                time.sleep(0.1)

        yield ask
        is_over.set()
        caller.join()
        running.terminate()
        running.wait(10)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_panel_draws_something(query: Query, expression: str) -> None:
    found = query(re.sub(r"\$(\w+)", lambda name: FILLED[name[1]], expression))
    assert found
    assert not any(each["value"][1] == "NaN" for each in found), found


@pytest.mark.parametrize("name", RECORDED)
def test_every_rule_records_something(query: Query, name: str) -> None:
    assert query(name)


def test_every_choice_of_the_dashboard_has_something_to_choose(query: Query) -> None:
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            [(metric, label)] = re.findall(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert all(each["metric"][label] for each in query(metric)), variable["name"]
            assert query(metric)


def test_no_alert_of_a_healthy_service_is_about_to_fire(query: Query) -> None:
    query("kqv:http_requests:rate5m")  # the rules have been evaluated
    assert [each["metric"]["alertname"] for each in query("ALERTS or vector(1)") if "alertname" in each["metric"]] == []

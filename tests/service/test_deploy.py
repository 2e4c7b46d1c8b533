"""deploy/prometheus and deploy/grafana: what promtool says of them, and that every figure they name is one that there is."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.runtime import Runtime
from grafana_foundation_sdk.models.dashboard import Dashboard
from scraping import read_metrics
from serving import make_app, serving
from tools import promtool

import kqv

pytestmark = pytest.mark.anyio
DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "kqv.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]


def test_promtool_takes_the_configuration() -> None:
    promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")


def test_promtool_takes_the_rules() -> None:
    assert "15 rules found" in promtool("check", "rules", RULES)


def test_alerts_fire_when_they_should_and_not_before() -> None:
    assert "SUCCESS" in promtool("test", "rules", DEPLOY / "prometheus" / "rules_test.yml")


def test_every_alert_is_tested_and_explained() -> None:
    alerts = re.findall(r"alert: (\w+)", RULES.read_text(encoding="utf-8"))
    assert len(alerts) == 10
    tests = (DEPLOY / "prometheus" / "rules_test.yml").read_text(encoding="utf-8")
    page = (DEPLOY.parent / "docs" / "observability.md").read_text(encoding="utf-8")
    assert [alert for alert in alerts if f"alertname: {alert}" not in tests] == []
    assert [alert for alert in alerts if f"`{alert}`" not in page] == []


async def known_figures(model: kqv.Model) -> set[str]:
    """The names of all series, and of those that rules record."""
    async with serving(make_app(model, head_metrics=("tiny/entropy", "tiny/first"))) as client:
        figures = {name.partition("{")[0] for name in await read_metrics(client)}
    return figures | {"up"} | set(re.findall(r"record: (\S+)", RULES.read_text(encoding="utf-8")))


def figures_in(text: str) -> set[str]:
    return set(re.findall(r"\b(?:kqv|process|python)[_:][a-z0-9_:]+", text))


async def test_rules_and_dashboard_name_figures_that_there_are(model: kqv.Model) -> None:
    known = await known_figures(model)
    expressions = " ".join(re.findall(r"expr: (?:>\n)?((?:.+|\n {10}.+)+)", RULES.read_text(encoding="utf-8")))
    for text in (expressions, " ".join(expression for _, expression in EXPRESSIONS)):
        named = figures_in(text)
        assert len(named) > 10
        assert named <= known


async def test_documentation_names_every_figure(model: kqv.Model) -> None:
    page = (DEPLOY.parent / "docs" / "observability.md").read_text(encoding="utf-8")
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in await known_figures(model) if name.startswith("kqv_")}
    assert [name for name in sorted(families) if f"`{name}" not in page] == []
    assert figures_in(page) - {"kqv_head_"} <= families | {"process_resident_memory_bytes"}


def test_promtool_takes_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]} | {"__rate_interval"}
    rules = []
    for index, (_, expression) in enumerate(EXPRESSIONS):
        assert set(re.findall(r"\$\{?(\w+)", expression)) <= variables
        expression = re.sub(r"\$__rate_interval", "5m", re.sub(r"\$(instance|route|model|group)", ".+", expression))
        rules.append({"record": f"panel:{index}", "expr": expression})
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))  # JSON is YAML
    assert f"{len(EXPRESSIONS)} rules found" in promtool("check", "rules", file)


def unknown_to_grafana(given: Any) -> list[str]:
    """Panels of no kind that there is, and what is lost when the classes that Grafana makes of its schema read and write it."""
    plugins.register_default_plugins()
    kept = json.loads(JSONEncoder().encode(Dashboard.from_json(given)))
    kinds = {panel["type"] for panel in given["panels"]} - {"row"} - Runtime().panelcfg_variants.keys()
    return [*kinds, *lost(given, kept)]


def lost(given: Any, kept: Any, path: str = "") -> Iterator[str]:
    """The paths of what isn't the same, or not there."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, value in given.items():
            yield from lost(value, kept.get(name), f"{path}.{name}")
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for index, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from lost(one, other, f"{path}.{index}")
    elif given != kept:
        yield f"{path} is {given!r}, and read as {kept!r}"


@pytest.mark.parametrize("file", ["dashboards/kqv.json", "heads/heads.json"])
def test_grafanas_schema_knows_every_field(file: str) -> None:
    assert unknown_to_grafana(json.loads((DEPLOY / "grafana" / file).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("right", "wrong"), [("gridPos", "gridpos"), ("expr", "expression"), ("showLegend", "showLegends"), ("timeseries", "timeserie")]
)
def test_grafanas_schema_would_not_know_a_mistake(right: str, wrong: str) -> None:
    assert unknown_to_grafana(json.loads(json.dumps(DASHBOARD).replace(f'"{right}"', f'"{wrong}"')))


def test_dashboard_shows_what_it_should() -> None:
    shown = " ".join(expression for _, expression in EXPRESSIONS)
    for figure in (
        "kqv_http_requests_total",
        "kqv_http_request_duration_seconds_bucket",
        "kqv_stage_duration_seconds",
        "kqv_requests_waiting",
        "kqv_batch_size",
        "kqv_rejected_total",
        "kqv_head_entropy",
    ):
        assert figure in shown
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_panels_do_not_lie_upon_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells

"""Diagnostics as flat rows: the figures of an analysis, one by one, and the panel that asks for them."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from problems import check_invalid, problem
from serving import listening, make_app

import kqv
from service.wire.answers import RowsAnswer

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana" / "heads"


def ask(client: httpx.Client, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/diagnostics", json=body)
    assert response.status_code == 200, response.text
    RowsAnswer.model_validate_json(response.content, strict=True)
    answer: dict[str, Any] = response.json()
    return answer


def test_rows_are_the_figures_of_an_analysis(client: httpx.Client) -> None:
    asked = {"input": ["the cat sat", [2, 3, 5, 3]], "layers": [0, -1], "heads": [4, 1]}
    answer = ask(client, **asked)
    analysis = client.post("/v1/analyze", json=asked | {"weights": "none", "outputs": []}).json()
    expected = [
        {"sequence": index, "group": "encoder", "layer": layer, "head": head, "measure": measure, "value": figures[row][column]}
        for index, result in enumerate(analysis["results"])
        for measure, figures in result["attention"]["encoder"]["diagnostics"].items()
        for row, layer in enumerate([0, 2])
        for column, head in enumerate([4, 1])
    ]
    assert answer["rows"] == expected
    assert len(expected) == 2 * 14 * 4
    assert answer["usage"] == analysis["usage"]
    assert any(row["value"] is None for row in expected)  # where there is no second token of the kind


def test_every_group_has_rows(encoder_decoder: kqv.Model) -> None:
    with listening(make_app(encoder_decoder)) as url, httpx.Client(base_url=url) as client:
        answer = ask(client, input={"text": "ab", "target": "c"}, diagnostics=["entropy"])
    assert {row["group"] for row in answer["rows"]} == {"encoder", "decoder", "cross"}


def test_what_makes_no_row_is_refused(client: httpx.Client) -> None:
    check_invalid(client.post("/v1/diagnostics", json={"input": "a", "diagnostics": ["similarity"]}), ["diagnostics"], "two heads")
    check_invalid(client.post("/v1/diagnostics", json={"input": "a", "diagnostics": ["colour"]}), ["diagnostics", 0], "colour")
    check_invalid(client.post("/v1/diagnostics", json={"input": "a", "layers": [3]}), ["layers", 0], "the model has 3")
    problem(client.post("/v1/diagnostics", json={"input": "a", "weights": "full"}), 422)
    none = ask(client, input="a", diagnostics="none")
    assert none["rows"] == []


def test_too_many_rows_are_refused_before_they_are_made(model: kqv.Model) -> None:
    with listening(make_app(model, max_answer_bytes=40_000)) as url, httpx.Client(base_url=url) as client:
        answer = client.post("/v1/diagnostics", json={"input": "a"})
        assert answer.status_code == 200
        assert 0.5 < len(answer.content) / (3 * 5 * 14 * 100) < 1.2  # about what is predicted
        problem(client.post("/v1/diagnostics", json={"input": ["a", "a"]}), 413)


PANELS = json.loads((GRAFANA / "heads.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("panel", PANELS["panels"], ids=lambda panel: panel["title"])
def test_panel_asks_for_what_there_is(panel: dict[str, Any], minilm: kqv.Model) -> None:
    [target] = panel["targets"]
    values = {each["name"]: each["query"] for each in PANELS["templating"]["list"]}
    body = json.loads(re.sub(r"\$\{(\w+)\}", lambda name: values[name[1]], target["url_options"]["data"]))
    with listening(make_app(minilm)) as url, httpx.Client(base_url=url) as client:
        answer = client.request(target["url_options"]["method"], target["url"], json=body)
    rows = answer.raise_for_status().json()[target["root_selector"]]
    assert len(rows) == 6 * 12
    assert {column["selector"] for column in target["columns"]} <= rows[0].keys()
    [matrix] = panel["transformations"]
    fields = {matrix["options"][name] for name in ("rowField", "columnField", "valueField")}
    assert fields <= {column["text"] for column in target["columns"]}
    source = (GRAFANA / "datasource.yml").read_text(encoding="utf-8")
    assert f"uid: {panel['datasource']['uid']}\n" in source and f"type: {panel['datasource']['type']}\n" in source

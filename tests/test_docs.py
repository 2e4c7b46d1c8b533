"""The documentation is true: its examples run, its answers come out, and all that there is has its place in it."""

import contextlib
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import listening, make_app

import kqv
from kqv.checkpoints.hf_directory import READERS
from kqv.diagnostics import DIAGNOSTICS
from kqv.store import KNOWN
from service.app import create_app
from service.models import Models
from service.settings import Settings

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(.+?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page: what stands behind the fence, and the text."""
    return BLOCK.findall(read(name))


def examples() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The requests of the API's page and the answers beside them: path, body, answer."""
    found = blocks("docs/api.md")
    for (kind, body), (next_kind, answer) in itertools.pairwise(found):
        if kind.startswith("json POST "):
            assert next_kind == "json answer"
            yield kind.removeprefix("json POST "), body, json.loads(answer)


def check_answer(shown: object, actual: object) -> None:
    """Every value shown is the actual one, numbers within the decimals that are shown; lists go on where they show `…`."""
    match shown:
        case dict():
            assert isinstance(actual, dict)
            for name, value in shown.items():
                check_answer(value, actual[name])
        case list():
            assert isinstance(actual, list)
            values = shown[:-1] if shown[-1:] == ["…"] else shown
            assert len(actual) == len(values) or len(values) < len(shown)
            for value, other in zip(values, actual, strict=False):
                check_answer(value, other)
        case float():
            assert actual == pytest.approx(shown, abs=6e-5)
        case _:
            assert actual == shown


@pytest.fixture(scope="module")
def client(minilm: kqv.Model) -> Iterator[httpx.Client]:
    with listening(make_app(minilm)) as address, httpx.Client(base_url=address) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "body", "answer"), list(examples()), ids=[f"{place} {path}" for place, (path, *_) in enumerate(examples())]
)
def test_the_requests_of_the_api_page_are_answered_as_it_shows(
    client: httpx.Client, path: str, body: str, answer: dict[str, Any]
) -> None:
    response = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 200, response.text
    check_answer(answer, response.json())


def test_the_readme_asks_the_server_as_it_shows(client: httpx.Client) -> None:
    [command] = [text for _, text in blocks("README.md") if "curl" in text]
    body = command[command.index("'{") + 1 : command.rindex("'")]
    response = client.post("/v1/analyze", content=body, headers={"Content-Type": "application/json"})
    diagnostics = response.raise_for_status().json()["results"][0]["attention"]["encoder"]["diagnostics"]
    assert diagnostics["entropy"][0][0] == pytest.approx(0.001, abs=5e-4)
    assert diagnostics["previous"][0][0] == pytest.approx(0.9999, abs=5e-5)


def test_the_python_of_the_readme_runs(minilm: kqv.Model) -> None:
    [code] = [text for kind, text in blocks("README.md") if kind == "python"]
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["analysis"].attention["encoder"].weights.shape == (6, 12, 9, 9)


def test_the_python_of_the_models_page_runs(smollm2: kqv.Model) -> None:
    [code] = [text for kind, text in blocks("docs/models.md") if kind == "python"]
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["written"].text.startswith(" Paris.")


def python_of_the_api_page() -> list[str]:
    return [text for kind, text in blocks("docs/api.md") if kind == "python"]


@pytest.mark.parametrize("number", range(len(python_of_the_api_page())))
def test_the_python_of_the_api_page_runs(client: httpx.Client, number: int) -> None:
    code = python_of_the_api_page()[number].replace("127.0.0.1:8000", f"{client.base_url.host}:{client.base_url.port}")
    names: dict[str, Any] = {}
    exec(code, names)
    for expression, shown in re.findall(r"^(\S.*)  # (\[.*\])$", code, re.MULTILINE):  # and shows what it says
        assert eval(f"list({expression})", names) == json.loads(shown), expression


def test_the_python_of_the_clients_page_runs(minilm: kqv.Model) -> None:
    models = Models(lambda: [minilm, kqv.load("mini-gpt")])
    models.load()
    names: dict[str, Any] = {}
    with listening(create_app(Settings(workers=1, embed_secret="s" * 32), models)) as address, contextlib.ExitStack() as closing:
        for code in (text.replace("http://127.0.0.1:8000", address) for kind, text in blocks("docs/client.md") if kind == "python"):
            exec(code, names)
            closing.callback(names["client"].close)
            for expression, shown in re.findall(r"^([a-zA-Z(\[].*)  # ([^a-z].*)$", code, re.MULTILINE):
                assert repr(eval(expression, names)) == shown, expression


def test_the_python_of_the_notebooks_page_runs(minilm: kqv.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for code in (text for kind, text in blocks("docs/notebook.md") if kind == "python"):
        exec(code, names)
    assert {file.name for file in tmp_path.iterdir()} == {"heads.png", "cat.html"}


def test_every_reader_is_on_the_models_page() -> None:
    page = read("docs/models.md")
    assert [kind for kind in READERS if f"`{kind}`" not in page] == []
    assert [name for name in KNOWN if f"`{name}`" not in page] == []


def test_every_route_has_a_heading(client: httpx.Client) -> None:
    routes = {
        f"{method.upper()} {path}" for path, methods in client.get("/openapi.json").json()["paths"].items() for method in methods
    }
    headings = set(re.findall(r"^##+ ((?:GET|POST) .+)$", read("docs/api.md"), re.MULTILINE))
    assert headings == routes


def test_every_field_of_a_request_is_on_the_api_page(client: httpx.Client) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    page = read("docs/api.md")
    kinds = ("LongformerHeads", "LinformerOverride", "PerformerOverride")
    for name in ("AnalyzeRequest", "AttendRequest", "GenerateRequest", "SequenceObject", "EmbedTokenRequest", *kinds):
        for field in schemas[name]["properties"]:
            assert re.search(rf"`(\w+\.)?{field}\b[\w.]*`", page), f"docs/api.md says nothing of {field} of {name}"


def test_every_diagnostic_has_a_heading() -> None:
    assert re.findall(r"^### (\w+)$", read("docs/diagnostics.md"), re.MULTILINE) == list(DIAGNOSTICS)


def settings_table() -> str:
    """What docs/settings.md must say of each setting."""
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        rows.append(f"| `KQV_{name.upper()}` | {'' if default in (None, '') else f'`{default}`'} | {field.description} |")
    return "\n".join(rows)


def test_every_setting_is_on_the_settings_page() -> None:
    assert settings_table() in read("docs/settings.md"), f"the table should be:\n{settings_table()}"


def test_the_tree_of_the_readme_names_every_module() -> None:
    tree = read("README.md")
    folders = [
        "kqv",
        "kqv/attention",
        *(f"service/{name}" for name in (".", "http", "wire", "work", "batching", "observing", "cli")),
    ]
    for module in itertools.chain.from_iterable((ROOT / folder).glob("*.py") for folder in folders):
        if not module.stem.startswith("__"):
            assert re.search(rf"\b{module.name}\b", tree), f"the tree in README.md lacks {module.name}"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", read(page)):
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"

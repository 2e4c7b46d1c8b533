"""The examples run, against a real server, and show what they say."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import listening

import kqv
from kqv.show import Shown
from service.app import create_app
from service.models import Models
from service.settings import Settings

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def address(minilm: kqv.Model) -> Iterator[str]:
    models = Models(lambda: [minilm, kqv.load("mini-gpt")])
    models.load()
    with listening(create_app(Settings(workers=1), models)) as address:
        yield address


def run(*command: str) -> str:
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_client_finds_the_head_that_looks_at_the_token_before(address: str) -> None:
    lines = run(sys.executable, str(EXAMPLES / "client.py"), address).splitlines()
    assert lines[0] == "layer 0, head 2 (encoder): 100.0% on the token before"
    assert [line.split()[0] for line in lines[2:5]] == ["the", "cat", "sat"]
    assert [line.split()[-1] for line in lines[2:5]] == ["[CLS]", "the", "cat"]


def test_text_is_watched_as_it_is_written(address: str) -> None:
    lines = run(sys.executable, str(EXAMPLES / "generate.py"), address).splitlines()
    assert len(lines) == 9 and lines[-1].startswith("the cat")
    pieces = [ast.literal_eval(line.partition("  each head")[0].strip()) for line in lines[:-1]]
    assert "the cat" + "".join(pieces) == lines[-1]


def test_curl_asks_the_same(address: str) -> None:
    models, answer, size = run("sh", str(EXAMPLES / "curl.sh"), address).splitlines()
    assert json.loads(models)["data"][0]["id"] == "minilm"
    previous = json.loads(answer)["results"][0]["attention"]["encoder"]["diagnostics"]["previous"]
    assert previous[0][2] > 0.99
    assert int(size) > 300


def test_server_that_is_not_there_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "client.py"), "http://127.0.0.1:9"],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("UnreachableError: the server can't be reached")


def shown_by(cell: str, names: dict[str, Any]) -> Any:
    """Run a cell as a notebook does, and give the value of its last expression."""
    tree = ast.parse(cell)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if isinstance(last, ast.Expr) else None


def test_notebook_runs_and_shows_pictures(minilm: kqv.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") for cell in notebook["cells"])
    names: dict[str, Any] = {}
    shown = [shown_by("".join(cell["source"]), names) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert isinstance(shown[0], Shown) and "data:image/png" in shown[0]._repr_html_()
    assert (0, 2) in shown[1]
    assert len(shown[2].axes) == 4
    assert (tmp_path / "cat.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_every_example_is_run_here() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    for example in EXAMPLES.iterdir():
        assert f'"{example.name}"' in here, f"{example.name} runs in no test"

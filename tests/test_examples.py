"""The examples run, against a real server, and show what they say."""

import ast
import json
import os
import re
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbclient.util import run_sync
from serving import listening

import kqv
from service.app import create_app
from service.client.tensors import with_arrays
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


PAGE = (EXAMPLES / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"^```console\n\$ (.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
def test_commands_of_the_page_show_what_stands_below_them(address: str, block: str) -> None:
    command, *shown = block.rstrip("\n").split("\n")
    program, example = command.split()
    lines = run(sys.executable if program == ".venv/bin/python" else program, str(ROOT / example), address).splitlines()
    pattern = "\n".join(".*" if line == "…" else re.escape(line).replace("…", ".*") for line in shown)
    assert re.fullmatch(pattern, "\n".join(lines), re.DOTALL)


def test_page_tells_of_every_example() -> None:
    assert [file.name for file in EXAMPLES.iterdir() if f"**[{file.name}]({file.name})**" not in PAGE] == ["README.md"]


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


@pytest.fixture(scope="module")
def outputs(minilm: kqv.Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    """What Jupyter's own kernel shows below each cell of the notebook, by media type; and the folder that it ran in."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "the notebook is kept without outputs"
    kernel = NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    with kernel.setup_kernel(env=os.environ | {"PYTHONPATH": str(ROOT)}):
        for index, cell in enumerate(notebook.cells):
            kernel.execute_cell(cell, index)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        shown = [{kind: value for each in cell.outputs for kind, value in each.get("data", {}).items()} for cell in cells]
        shown[-1]["answer"] = ask_widget(kernel.kc, shown[-1]["application/vnd.jupyter.widget-view+json"]["model_id"])
    nbformat.validate(notebook)
    return shown, folder


def ask_widget(kernel: Any, widget: str) -> Any:
    """What a widget in a kernel answers to its page, by Jupyter's own messages: a line of JSON, and bytes."""
    body = json.dumps({"input": "", "layers": [0], "heads": [2], "weights": "full"})
    asked = {"method": "custom", "content": {"id": "7", "path": "/v1/analyze", "body": body}}
    kernel.shell_channel.send(kernel.session.msg("comm_msg", {"comm_id": widget, "data": asked}))
    while True:
        message = run_sync(kernel.get_iopub_msg)(timeout=20)
        content = message["content"]
        if message["msg_type"] == "comm_msg" and content["comm_id"] == widget and content["data"]["method"] == "custom":
            [answer] = message["buffers"]
            return content["data"]["content"], json.loads(bytes(answer))


def test_notebook_shows_the_heads_and_a_plot_in_jupyter(outputs: tuple[list[dict[str, Any]], Path]) -> None:
    shown, folder = outputs
    assert "data:image/png" in shown[0]["text/html"]
    assert ast.literal_eval(shown[1]["text/plain"])[0] == (0, 2)
    assert b64decode(shown[2]["image/png"]).startswith(b"\x89PNG")  # without pyplot, whose import would show it, too
    assert (folder / "cat.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_live_view_of_the_notebook_is_answered_by_the_kernel(outputs: tuple[list[dict[str, Any]], Path], minilm: kqv.Model) -> None:
    (head, answer), [analysis] = outputs[0][-1]["answer"], minilm.analyze(["The cat sat on the mat."])
    assert (head["id"], head["status"]) == ("7", 200)
    weights = with_arrays(answer["results"][0]["attention"])["encoder"]["weights"]
    assert np.allclose(weights[0, 0], analysis.attention["encoder"].weights[0, 2], atol=1e-6)


def test_every_example_is_run_here() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    for example in EXAMPLES.iterdir():
        assert f'"{example.name}"' in here, f"{example.name} runs in no test"

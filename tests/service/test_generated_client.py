"""A client that a generator makes of the OpenAPI document, and nobody wrote, asks the real server and reads what it answers."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from serving import listening, make_app
from tools import package

import kqv

KEY = "0123456789abcdef0123456789abcdef"
CONFIGURATION = "content_type_overrides: {application/x-safetensors: application/octet-stream}"
"""The one thing that the generator has to be told: what to send as bytes."""


@pytest.fixture(scope="module")
def address(model: kqv.Model) -> Iterator[str]:
    with listening(make_app(model, api_keys=f"test:{KEY}")) as url:
        yield url


@pytest.fixture(scope="module")
def generated(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the package `made`, which can be imported."""
    package("openapi_python_client")
    folder = tmp_path_factory.mktemp("generated")
    (folder / "configuration.yml").write_text(CONFIGURATION)
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--url", f"{address}/openapi.json", "--fail-on-warning"]
    command += ["--output-path", str(folder / "made"), "--meta", "none", "--config", str(folder / "configuration.yml")]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where it looks for ruff, to format what it wrote
    done = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def call(name: str, *path: str, address: str, key: str = KEY, **given: Any) -> Any:
    """What the generated function answers."""
    made: ModuleType = importlib.import_module("made")
    route = importlib.import_module(f"made.api.{name}")
    with made.AuthenticatedClient(address, token=key, timeout=10, raise_on_unexpected_status=True) as client:
        return route.sync(*path, client=client, **given)


def test_it_asks_and_reads(generated: Path, address: str, model: kqv.Model) -> None:
    models = importlib.import_module("made.models")
    assert [card.id for card in call("models.list_models", address=address).data] == ["tiny"]
    assert call("models.describe_model", "tiny", address=address).layers == 3
    body = models.TokenizeRequest(input_="the cat")
    assert call("models.tokenize", address=address, body=body).results[0].tokens == ["[CLS]", "the", "cat", "[SEP]"]
    body = models.AnalyzeRequest(input_=["the cat", [5, 6]], layers=[-1], weights=models.AnalyzeRequestWeights.FULL)
    expected = model.analyze(["the cat", [5, 6]], layers=(-1,))
    for found, analysis in zip(call("attention.analyze", address=address, body=body).results, expected, strict=True):
        group, wanted = found.attention["encoder"], analysis.attention["encoder"]
        assert group.weights[0][4][1] == pytest.approx(wanted.weights[0, 4, 1].tolist(), abs=1e-6)
        assert group.diagnostics["entropy"][0] == pytest.approx(wanted.diagnostics["entropy"][0].tolist(), abs=1e-5)


def test_it_speaks_every_protocol(generated: Path, address: str, model: kqv.Model) -> None:
    models = importlib.import_module("made.models")
    eye = [[1.0, 0.0], [0.0, 1.0]]
    attended = call("attention.attend", address=address, body=models.AttendRequest(q=eye, k=eye, v=eye, scale=0.0))
    assert attended.weights == [[[0.5, 0.5], [0.5, 0.5]]]
    pooled = model.analyze(["the cat"], outputs=("pooled",))[0].pooled.tolist()
    embedded = call("protocols.create_embeddings", address=address, body=models.EmbeddingsRequest(input_="the cat", model="tiny"))
    assert embedded.data[0].embedding == pytest.approx(pooled, abs=1e-6)
    text = models.InferInput(name="text", shape=[1], datatype=models.InferInputDatatype.BYTES, data=["the cat"])
    asked = models.InferRequest(inputs=[text], outputs=[models.InferOutput(name="pooled")])
    [inferred] = call("protocols.infer", "tiny", address=address, body=asked).outputs
    assert inferred.data == pytest.approx(pooled, abs=1e-6)
    assert call("health.ready", address=address).status == "ok"


def test_it_reads_errors(generated: Path, address: str) -> None:
    models = importlib.import_module("made.models")
    refused = call("attention.analyze", address=address, body=models.AnalyzeRequest(input_="a", layers=[7]))
    assert isinstance(refused, models.Problem)
    assert (refused.status, refused.errors[0].loc) == (422, ["layers", 0])
    assert call("models.list_models", address=address, key="another").status == 401

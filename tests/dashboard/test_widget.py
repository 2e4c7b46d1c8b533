"""The widget of a notebook in a browser that has no way to the server: what it asks for goes through the kernel alone."""

import json
import re
import sys
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from browsing import colors_of, pixels_of
from playwright.sync_api import BrowserContext, Page, expect

import kqv
from service import widget
from service.client import Client
from service.client.tensors import with_arrays
from service.findings import Findings

NOTEBOOK = "https://notebook.example/"
SHOW = """
async ([source, attributes]) => {
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const { render } = (await import(url)).default;
  const listeners = [];
  const model = {
    get: () => attributes,
    on: (_, listener) => listeners.push(listener),
    off: () => {},
    send: async (asked) => {
      const { body, ...told } = await window.kernel(asked);
      const bytes = Uint8Array.from(atob(body), (letter) => letter.charCodeAt(0));
      for (const listener of listeners) listener({ id: asked.id, ...told }, [new DataView(bytes.buffer)]);
    },
  };
  await render({ model, el: document.body });
}
"""


@pytest.fixture
def notebook(context: BrowserContext) -> Page:
    """A page of another origin, from which nothing can be reached."""
    page = context.new_page()
    page.route("**/*", lambda route: route.abort())
    page.route(NOTEBOOK, lambda route: route.fulfill(body="<!doctype html><body></body>", content_type="text/html"))
    page.goto(NOTEBOOK)
    return page


def connect(page: Page, answer: Callable[[str, str | None], widget.Answered]) -> list[str]:
    """Let the page ask the kernel; what it asks for is noted."""
    asked: list[str] = []

    def kernel(message: dict[str, Any]) -> dict[str, Any]:
        asked.append(message["path"])
        status, headers, body = answer(message["path"], message.get("body"))
        return {"status": status, "headers": headers, "body": b64encode(body).decode()}

    page.expose_function("kernel", kernel)
    return asked


def test_widget_shows_the_views_and_asks_the_kernel_alone(server: str, notebook: Page) -> None:
    requests: list[str] = []
    notebook.on("request", lambda request: requests.append(request.url))
    complaints: list[str] = []
    notebook.on("pageerror", lambda error: complaints.append(str(error)))
    with Client(server) as client:
        asked = connect(notebook, partial(widget.answer, client.run))
        for text in ("The cat sat on the mat.", "A dog ran."):  # two on one page
            notebook.evaluate(SHOW, [widget.script(), {"text": text, "model": "minilm", "layer": "0", "head": "2"}])
        notebook.wait_for_function("document.querySelectorAll('kqv-attention').length == 2")
        notebook.locator("kqv-attention").nth(1).locator("kqv-heads canvas").first.wait_for()
        assert "/v1/analyze" in asked
    assert {urlsplit(url).scheme for url in requests} <= {"blob", "data"}
    assert complaints == []


@pytest.fixture(scope="module")
def bert() -> kqv.Model:
    return kqv.load("mini-bert")


def see(page: Page, analysis: Any, **attributes: str | int) -> list[str]:
    """Show an analysis as the widget does, which is given what the page asks for."""
    shown = widget.view(analysis, **attributes)
    try:
        asked = connect(page, shown.answer)
        page.evaluate(SHOW, [widget.script(), dict(shown.attributes)])
    finally:
        shown.close()
    page.locator("kqv-heads canvas").first.wait_for()
    return asked


def weights_of(analysis: Any, row: int, column: int) -> np.ndarray:
    return np.asarray(analysis.attention["encoder"].weights[row, column])


def test_an_analysis_of_the_engine_is_live_without_a_server(notebook: Page, bert: kqv.Model) -> None:
    [analysis] = bert.analyze(["the cat sat"])
    asked = see(notebook, analysis, layer=2, head=1, measure="previous")
    assert (pixels_of(notebook.locator("kqv-map canvas"))[..., :3] == colors_of(weights_of(analysis, 2, 1))).all()
    figure = float(analysis.attention["encoder"].diagnostics["previous"][3, 0])
    notebook.locator("kqv-heads .heads-cell").nth(12).click()
    expect(notebook.locator("kqv-heads .is-open")).to_have_attribute("title", re.compile(rf"L3 H0: previous token {figure:.3f}"))
    assert (pixels_of(notebook.locator("kqv-map canvas"))[..., :3] == colors_of(weights_of(analysis, 3, 0))).all()
    assert set(asked) == {"/v1/analyze", "/v1/tokenize"}
    expect(notebook.get_by_role("button", name="curl")).to_have_count(0)  # there is no server to ask so


def test_an_analysis_of_the_client_asks_nobody_again(server: str, notebook: Page) -> None:
    with Client(server) as client:
        [analysis] = client.analyze("the cat sat", model="mini-bert")
    shown = widget.view(analysis, layer=1)
    assert shown.attributes["layer"] == "1" and shown.attributes["text"].startswith("[CLS] ")
    shown.close()
    see(notebook, analysis, layer=1, head=0)  # the client is closed
    assert (pixels_of(notebook.locator("kqv-map canvas"))[..., :3] == colors_of(weights_of(analysis, 1, 0))).all()


def test_chosen_heads_keep_their_names(notebook: Page, bert: kqv.Model) -> None:
    [analysis] = bert.analyze([[7, 8, 9] * 15], layers=[1, 3], heads=[2], diagnostics=["entropy"])
    see(notebook, analysis)
    title = notebook.locator("kqv-heads .is-open").get_attribute("title") or ""
    row = [1, 3].index(int(title[1]))
    entropy = float(analysis.attention["encoder"].diagnostics["entropy"][row, 0])
    assert title.startswith(f"L{[1, 3][row]} H2: entropy ") and float(title.split()[-1]) == pytest.approx(entropy, rel=0.01)
    assert (pixels_of(notebook.locator("kqv-map canvas"))[..., :3] == colors_of(weights_of(analysis, row, 0))).all()
    notebook.locator("kqv-heads .heads-cell").first.click()
    expect(notebook.locator(".notice")).to_contain_text("encoder layers 1, 3 with heads 2")


def ask(analysis: Any, **body: Any) -> Any:
    """What an analysis answers, with arrays."""
    status, _, content = widget.recall(Findings(analysis), "/v1/analyze", json.dumps(body))
    answer = json.loads(content)
    return with_arrays(answer["results"][0]["attention"]) if status == 200 else answer["detail"]


def test_an_analysis_answers_as_the_server_does(server: str, bert: kqv.Model) -> None:
    ids = [[each % 90 + 5 for each in range(97)]]
    [analysis] = bert.analyze(ids)
    overview = {"weights": "pooled", "pool": 32, "diagnostics": "all", "outputs": []}
    head = {"layers": [2], "heads": [3], "diagnostics": "none", "outputs": []}
    view = {"queries": [30, 90], "keys": [0, 50]}
    for body in (overview, head | {"weights": "full"}, head | view | {"weights": "full"}):
        with Client(server) as client:
            asked = {name: value for name, value in body.items() if name != "pool"} | ({"pool": 32} if "pool" in body else {})
            [expected] = client.analyze(ids[0], model="mini-bert", **asked)
        found, group = ask(analysis, **body)["encoder"], expected.attention["encoder"]
        maps = ("weights", group.weights) if group.pooled is None else ("pooled", group.pooled)
        assert found[maps[0]].shape == maps[1].shape
        if maps[0] == "weights":
            assert np.allclose(found["weights"], group.weights, atol=1e-6)
        for name, figures in found.get("diagnostics", {}).items():
            assert np.allclose(figures, group.diagnostics[name], atol=1e-4, equal_nan=True), name


def test_what_was_kept_is_shown_and_the_rest_is_told(bert: kqv.Model) -> None:
    head = {"layers": [0], "heads": [0], "weights": "full"}
    [full] = bert.analyze(["the cat sat"])
    [top] = bert.analyze(["the cat sat"], weights="top", top_k=99)
    assert np.allclose(ask(top, **head)["encoder"]["weights"], ask(full, **head)["encoder"]["weights"], atol=1e-6)
    [tiles] = bert.analyze(["the cat sat"], weights="pooled", pool=3)
    assert ask(tiles, **head)["encoder"]["weights"].shape == (1, 1, 3, 3)
    assert "only tiles" in ask(tiles, **head, queries=[0, 2], keys=[0, 2])
    assert widget.recall(Findings(full), "/v1/models", None)[0] == 404
    for broken in ("{}", "[]", "{", '{"layers": [0]}', '{"pool": "many"}'):
        assert widget.recall(Findings(full), "/v1/analyze", broken)[0] == 422, broken
    [vectors] = bert.analyze([kqv.Input(embeddings=torch.randn(5, 128))])
    assert Findings(vectors).text == "0 1 2 3 4"
    with pytest.raises(kqv.InputError, match='of which this has none: analyze with weights="full"'):
        widget.view(bert.analyze(["the"], weights="none")[0])
    with pytest.raises(kqv.InputError, match="whole maps"):
        widget.view(bert.analyze(["the cat"], queries=[0, 2])[0])


def test_each_group_answers_for_its_own_heads() -> None:
    [analysis] = kqv.load("mini-t5").analyze([kqv.Input(text="abc", target="de")])
    found = ask(analysis, layers=[0], heads=[1], weights="full")
    assert found.keys() == {"encoder", "decoder", "cross"}
    cross = analysis.attention["cross"].weights[0, 1]
    assert np.array_equal(found["cross"]["weights"][0, 0], cross)


def test_server_that_is_gone_is_shown(notebook: Page) -> None:
    with Client("http://127.0.0.1:9", retries=0) as client:
        connect(notebook, partial(widget.answer, client.run))
        notebook.evaluate(SHOW, [widget.script(), {"text": "The cat.", "model": "minilm"}])
        notebook.get_by_text("can't be reached").first.wait_for()


@pytest.mark.parametrize(
    "path", ["/metrics", "/v1/embed-tokens", "/v1/models/../embed-tokens", "/v1/models/a/b", "http://other/v1/models"]
)
def test_kernel_passes_nothing_else_on(server: str, path: str) -> None:
    with Client(server) as client:
        status, _, body = widget.answer(client.run, path, None)
    assert status == 403 and "doesn't ask for" in json.loads(body)["detail"]


def test_refusals_are_passed_on_as_they_are(server: str) -> None:
    with Client(server) as client:
        status, headers, body = widget.answer(client.run, "/v1/analyze", '{"input": "a", "model": "other"}')
    assert (status, headers["content-type"], json.loads(body)["status"]) == (404, "application/problem+json", 404)


def test_script_has_every_module_after_those_that_it_imports() -> None:
    sources = json.loads(re.match(r"const SOURCES = (.*);\n", widget.script())[1])  # type: ignore[index]
    assert list(sources)[-1] == widget.ENTRY
    for place, text in enumerate(sources.values()):
        assert {*widget.IMPORT.findall(text)} <= {*list(sources)[:place]}


def test_widget_answers_what_its_page_asks(server: str) -> None:
    with Client(server) as client:
        shown = client.widget("The cat.", model="minilm", layer=0)
        assert shown.attributes == {"text": "The cat.", "model": "minilm", "layer": "0"}
        sent: list[Any] = []
        shown.send = lambda content, buffers: sent.append((content, buffers))
        shown._handle_custom_msg({"id": "7", "path": "/v1/models", "body": None}, [])
        shown.close()
    [(content, [body])] = sent
    assert (content["id"], content["status"]) == ("7", 200)
    assert json.loads(body)["data"][0]["id"] == "minilm"


def test_widget_says_what_is_missing(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with Client(server) as client, pytest.raises(kqv.InputError, match=r"pip install 'kqv\[notebook\]'"):
        client.widget("The cat.")

"""The widget of a notebook in a browser that has no way to the server: what it asks for goes through the kernel alone."""

import json
import re
import sys
from base64 import b64encode
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Page

import kqv
from service import widget
from service.client import Client

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


def connect(page: Page, client: Client) -> list[str]:
    """Let the page ask the kernel; what it asks for is noted."""
    asked: list[str] = []

    def kernel(message: dict[str, Any]) -> dict[str, Any]:
        asked.append(message["path"])
        status, headers, body = widget.answer(client.run, message["path"], message.get("body"))
        return {"status": status, "headers": headers, "body": b64encode(body).decode()}

    page.expose_function("kernel", kernel)
    return asked


def test_widget_shows_the_views_and_asks_the_kernel_alone(server: str, notebook: Page) -> None:
    requests: list[str] = []
    notebook.on("request", lambda request: requests.append(request.url))
    complaints: list[str] = []
    notebook.on("pageerror", lambda error: complaints.append(str(error)))
    with Client(server) as client:
        asked = connect(notebook, client)
        for text in ("The cat sat on the mat.", "A dog ran."):  # two on one page
            notebook.evaluate(SHOW, [widget.script(), {"text": text, "model": "minilm", "layer": "0", "head": "2"}])
        notebook.wait_for_function("document.querySelectorAll('kqv-attention').length == 2")
        notebook.locator("kqv-attention").nth(1).locator("kqv-heads canvas").first.wait_for()
        assert "/v1/analyze" in asked
    assert {urlsplit(url).scheme for url in requests} <= {"blob", "data"}
    assert complaints == []


def test_server_that_is_gone_is_shown(notebook: Page) -> None:
    with Client("http://127.0.0.1:9", retries=0) as client:
        connect(notebook, client)
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

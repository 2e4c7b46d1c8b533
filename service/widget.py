"""The dashboard's views as a widget in a notebook, by anywidget (`kqv[notebook]`): live, unlike the pictures of `kqv.show`.

    from service.widget import view

    [analysis] = kqv.load("minilm").analyze(["The cat sat on the mat."])
    view(analysis)      # or client.widget("The cat sat on the mat."), which asks the server

The browser asks the kernel, and the kernel answers: out of an analysis that it holds (`findings`), or with what a server says. So
the widget works where the browser has no way to a server, no origin has to be allowed, and a key stays in the kernel. Its script is
made of the dashboard's modules in this package; nothing is fetched.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import orjson

from kqv.errors import InputError
from service.client.calls import Call
from service.client.errors import ClientError
from service.client.exchange import Reply
from service.findings import Findings

FOLDER = Path(__file__).parent
ENTRY = "kqv-attention.js"
IMPORT = re.compile(r'^(?:import|export)\b[^;"]*"\./([\w-]+\.js)"', re.MULTILINE)
PATHS = re.compile(r"/v1/(analyze|tokenize|models(/[^/?#]+)?)")
"""What the views ask for; nothing else is passed on, whatever a page may send."""
Run = Callable[[Call[Reply]], Reply]
"""How a client asks: `Client.run`."""
Answered = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""
ANY_STATUS = frozenset(range(100, 600))


def script() -> str:
    """The widget's module, with all others inside."""
    modules = dict(with_imports(ENTRY))
    order = TopologicalSorter({name: IMPORT.findall(text) for name, text in modules.items()}).static_order()
    styles = {path.name: read(path.name) for path in sorted((FOLDER / "dashboard").glob("*.css"))}
    files = {"SOURCES": {name: modules[name] for name in order}, "STYLES": styles}
    constants = "".join(f"const {name} = {orjson.dumps(value).decode()};\n" for name, value in files.items())
    return constants + (FOLDER / "widget.js").read_text(encoding="utf-8")


def with_imports(name: str) -> Iterator[tuple[str, str]]:
    """A module of the dashboard and those that it imports, by name; some more than once."""
    yield name, (text := read(name))
    for other in IMPORT.findall(text):
        yield from with_imports(other)


def read(name: str) -> str:
    return (FOLDER / "dashboard" / name).read_text(encoding="utf-8")


def view(analysis: Any, **attributes: str | int) -> Any:
    """The views of an analysis, the engine's or the client's. Attributes: those of `<kqv-attention>`, as `layer` or `parts`.

    Raises `InputError` where no maps were kept, or without `kqv[notebook]`.
    """
    findings = Findings(analysis)
    shown = {"text": findings.text, "model": "analysis"} | findings.first() | {name: str(each) for name, each in attributes.items()}
    return make_widget(partial(recall, findings), shown)


def recall(findings: Findings, path: str, body: str | None) -> Answered:
    """What an analysis says to a view."""
    if path != "/v1/analyze" or body is None:
        return problem(404, "Not found", f"an analysis has no {path}")
    try:
        return 200, {"content-type": "application/json"}, findings.answer(orjson.loads(body))
    except (InputError, LookupError, TypeError, ValueError) as error:  # whatever a page may send, it is answered
        return problem(422, "Not kept", str(error))


def answer(run: Run, path: str, body: str | None) -> Answered:
    """What the server says to a view: status, headers and body. Where there is no answer, a problem that the view can show."""
    if not PATHS.fullmatch(path):
        return problem(403, "Forbidden", f"the widget doesn't ask for {path}")
    fields = None if body is None else orjson.loads(body)
    asked: Call[Reply] = Call(path, lambda _, reply: reply, fields, expected=ANY_STATUS)
    try:
        reply = run(asked)
    except ClientError as error:
        return problem(error.status or 503, type(error).__name__, error.detail)
    kept = {name: value for name in ("content-type", "server-timing", "retry-after") if (value := reply.header.get(name))}
    return reply.status, kept, bytes(reply.body)


def problem(status: int, title: str, detail: str) -> Answered:
    """A problem of our own."""
    document = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return status, {"content-type": "application/problem+json"}, orjson.dumps(document)


def make_widget(answer: Callable[[str, str | None], Answered], attributes: Mapping[str, str]) -> Any:
    """A widget of `<kqv-attention>` with these attributes, asking this. Raises `InputError` without anywidget."""
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise InputError("the widget needs anywidget: pip install 'kqv[notebook]'") from error

    class Attention(anywidget.AnyWidget):
        """The views of a text under a model."""

        _esm = script()
        attributes = traitlets.Dict().tag(sync=True)

        def answer(self, path: str, body: str | None) -> Answered:
            return answer(path, body)

        def ask(self, _: object, message: dict[str, Any], __: object) -> None:
            status, headers, body = self.answer(message["path"], message.get("body"))
            self.send({"id": message["id"], "status": status, "headers": headers}, [body])

    shown = Attention(attributes=dict(attributes))
    shown.on_msg(shown.ask)
    return shown

"""The dashboard's views as a widget in a notebook, by anywidget (`kqv[notebook]`): live, unlike the pictures of `kqv.show`.

The browser asks the kernel, and the kernel asks the server. So the widget works where the browser has no way to the server, no
origin has to be allowed, and the key stays in the kernel. Its script is made of the dashboard's modules in this package; nothing is
fetched.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import orjson

from kqv.errors import InputError
from service.client.calls import Call
from service.client.errors import ClientError
from service.client.exchange import Reply

FOLDER = Path(__file__).parent
ENTRY = "kqv-attention.js"
IMPORT = re.compile(r'^(?:import|export)\b[^;"]*"\./([\w-]+\.js)"', re.MULTILINE)
PATHS = re.compile(r"/v1/(analyze|tokenize|models(/[^/?#]+)?)")
"""What the views ask for; nothing else is passed on, whatever a page may send."""
Run = Callable[[Call[Reply]], Reply]
"""How a client asks: `Client.run`."""
ANY_STATUS = frozenset(range(100, 600))


def script() -> str:
    """The widget's module, with all others inside."""
    modules = dict(with_imports(ENTRY))
    order = TopologicalSorter({name: IMPORT.findall(text) for name, text in modules.items()}).static_order()
    files = {"SOURCES": {name: modules[name] for name in order}, "STYLES": {"parts.css": read("parts.css")}}
    constants = "".join(f"const {name} = {orjson.dumps(value).decode()};\n" for name, value in files.items())
    return constants + (FOLDER / "widget.js").read_text(encoding="utf-8")


def with_imports(name: str) -> Iterator[tuple[str, str]]:
    """A module of the dashboard and those that it imports, by name; some more than once."""
    yield name, (text := read(name))
    for other in IMPORT.findall(text):
        yield from with_imports(other)


def read(name: str) -> str:
    return (FOLDER / "dashboard" / name).read_text(encoding="utf-8")


def answer(run: Run, path: str, body: str | None) -> tuple[int, dict[str, str], bytes]:
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


def problem(status: int, title: str, detail: str) -> tuple[int, dict[str, str], bytes]:
    """A problem of our own."""
    document = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return status, {"content-type": "application/problem+json"}, orjson.dumps(document)


def make_widget(run: Run, attributes: Mapping[str, str]) -> Any:
    """A widget of `<kqv-attention>` with these attributes. Raises `InputError` where anywidget is missing."""
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise InputError("the widget needs anywidget: pip install 'kqv[notebook]'") from error

    class Attention(anywidget.AnyWidget):
        """The views of a text under a model."""

        _esm = script()
        attributes = traitlets.Dict().tag(sync=True)

        def ask(self, _: object, message: dict[str, Any], __: object) -> None:
            status, headers, body = answer(run, message["path"], message.get("body"))
            self.send({"id": message["id"], "status": status, "headers": headers}, [body])

    shown = Attention(attributes=dict(attributes))
    shown.on_msg(shown.ask)
    return shown

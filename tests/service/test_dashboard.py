"""The dashboard's files: where they are, what they are, and what browsers are told of them."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from problems import problem
from pydantic import ValidationError
from serving import listening, make_app

import kqv
from service.routes import dashboard
from service.settings import Settings

KINDS = {"a.js": "text/javascript; charset=utf-8", "style.css": "text/css; charset=utf-8", "b/c.svg": "image/svg+xml"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "dashboard"
    (folder / "b").mkdir(parents=True)
    for name in ("index.html", "embed.html", *KINDS):
        (folder / name).write_text(f"this is {name}")
    (folder.parent / "secret.js").write_text("secret")
    (folder / "link.js").symlink_to(folder.parent / "secret.js")
    return folder


@pytest.fixture(scope="module")
def pages(folder: Path, model: kqv.Model) -> Iterator[httpx.Client]:
    """A server that wants a key, and a client that has none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dashboard, "FOLDER", folder)
        app = make_app(model, api_keys="page:correct-horse-battery", frame_ancestors=("'self'", "https://host.example"))
    with listening(app) as url, httpx.Client(base_url=url, timeout=10) as session:
        yield session


@pytest.mark.parametrize(
    ("path", "name", "ancestors"),
    [
        ("/", "index.html", "'none'"),
        ("/embed", "embed.html", "'self' https://host.example"),
        ("/embed?model=a", "embed.html", None),
    ],
)
def test_pages_are_seen_without_a_key_and_run_no_script_but_their_own(
    pages: httpx.Client, path: str, name: str, ancestors: str | None
) -> None:
    answer = pages.get(path)
    assert (answer.status_code, answer.text) == (200, f"this is {name}")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    [policy] = answer.headers.get_list("content-security-policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert (rules["default-src"], rules["script-src"], rules["connect-src"]) == ("'none'", "'self'", "'self'")
    assert rules["frame-ancestors"] == (ancestors or "'self' https://host.example")
    assert "x-frame-options" not in answer.headers  # it knows no list of origins, and older browsers would follow it
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert pages.head(path).headers["content-length"] == str(len(answer.content))


@pytest.mark.parametrize("name", KINDS)
def test_each_file_has_its_type_and_is_asked_about_again(pages: httpx.Client, name: str) -> None:
    answer = pages.get(f"/dashboard/{name}")
    assert (answer.status_code, answer.text) == (200, f"this is {name}")
    assert answer.headers["content-type"] == KINDS[name]
    assert answer.headers["cache-control"] == "no-cache"
    again = pages.get(f"/dashboard/{name}", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    ["../secret.js", "%2e%2e/secret.js", "..%2fsecret.js", "b/../../secret.js", "link.js", "/etc/passwd", "b", "", "none.js"],
)
def test_no_path_leads_out_of_the_folder(folder: Path, model: kqv.Model, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "FOLDER", folder)
    with listening(make_app(model)) as url, httpx.Client(base_url=url) as client:
        target = httpx.URL(url).copy_with(raw_path=f"/dashboard/{path}".encode())  # as it is written
        problem(client.get(target), 404)


def test_files_are_only_read(pages: httpx.Client) -> None:
    headers = {"authorization": "Bearer correct-horse-battery"}
    assert [pages.request(method, "/dashboard/a.js", headers=headers).status_code for method in ("POST", "DELETE")] == [405, 405]


@pytest.mark.parametrize("ancestor", ["*", "https:", "'self' *", "host.example", "'none'; script-src *", ""])
def test_what_can_be_no_ancestor_is_refused(ancestor: str) -> None:
    with pytest.raises(ValidationError):
        Settings(frame_ancestors=ancestor)

"""Keys: whoever has none sees the public list and nothing else; keys change without a restart, and never show."""

import asyncio
import hmac
import logging
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from problems import problem
from serving import busy_device, listening, make_app, serving, until_waiting

import kqv
from service.http import auth
from service.http.auth import Keys, digest_of, new_key, read_keys
from service.settings import Settings

pytestmark = pytest.mark.anyio

KEY = "correct-horse-battery-staple"
OTHER = "staple-battery-horse-correct"
KEYS: dict[str, Any] = {"api_keys": f"dashboard:{KEY},batch:sha256:{digest_of(OTHER).hex()}"}
BODY = {"input": "the cat", "weights": "none"}
PUBLIC = {"/", "/embed", "/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/docs", "/redoc", "/openapi.json"}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def guarded(model: kqv.Model) -> Iterator[httpx.Client]:
    with listening(make_app(model, **KEYS)) as url, httpx.Client(base_url=url, timeout=10) as session:
        yield session


def all_routes(model: kqv.Model) -> list[tuple[str, str]]:
    """Every route that the app has: those of the OpenAPI document, and the hidden ones."""
    app = make_app(model, **KEYS)
    found = {
        (method, route.path) for route in iter_route_contexts(app.routes) if route.path for method in (route.methods or {"GET"})
    }
    described = {(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods}
    assert described < found
    return sorted(found)


def test_every_route_wants_a_key_unless_it_is_public(guarded: httpx.Client, model: kqv.Model) -> None:
    routes = all_routes(model)
    assert ("GET", "/metrics") in routes
    public = set()
    for method, path in routes:
        response = guarded.request(method, re.sub(r"{\w+}", "tiny", path))
        if path in PUBLIC:
            assert response.status_code == 200, path
            public.add(path)
        else:
            assert response.status_code == 401, path
            assert response.headers["www-authenticate"] == "Bearer"
            assert method == "HEAD" or "Authorization: Bearer" in told(path, response)
    assert public == PUBLIC


def told(path: str, response: httpx.Response) -> str:
    """What the error says, in the form that the path's clients know."""
    if path.startswith("/v2"):
        return str(response.json()["error"])
    if path == "/v1/embeddings":
        assert response.json()["error"]["code"] == "invalid_api_key"
        return str(response.json()["error"]["message"])
    return str(problem(response, 401)["detail"])


@pytest.mark.parametrize(
    "path",
    [
        "/livez/../v1/models",
        "/livez/..%2fv1/models",
        "/livez/%2e%2e/v1/models",
        "//livez",
        "/livez/",
        "/livez//",
        "/livez%2f",
        "/livez%00",
        "/livez%0a",
        "/livez;/v1/models",
        "/LIVEZ",
        "/./livez",
        "/v1/models/",
        "//v1/models",
        "/v1%2fmodels",
        "/v1/./models",
        "/%76%31/models",
        "/docs/../v1/models",
        "/openapi.json/v1/models",
        "/static-offline-docs/../v1/models",
        "/static-offline-docs/",
        "/static-offline-docs/%2e%2e/core.py",
        "/dashboard",
        "/dashboard/",
        "/dashboard/../v1/models",
        "/dashboard/%2e%2e/app.py",
        "/dashboard/..%2fapp.py",
        "/embed/",
        "/nowhere",
    ],
)
def test_no_spelling_of_a_path_gets_past_the_keys(guarded: httpx.Client, path: str) -> None:
    assert first_line(guarded, f"GET {path} HTTP/1.1") == b"HTTP/1.1 401 Unauthorized", path


def first_line(client: httpx.Client, request: str) -> bytes:
    """Of the answer to a request line that is sent as it is, as no client library would."""
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=5) as connection:
        connection.sendall(f"{request}\r\nHost: kqv\r\nConnection: close\r\n\r\n".encode())
        return connection.makefile("rb").readline().rstrip()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_public_paths_are_public_to_readers_alone(guarded: httpx.Client, method: str) -> None:
    assert guarded.request(method, "/livez").status_code == 401


def test_encoded_spelling_of_a_public_path_is_that_path(guarded: httpx.Client) -> None:
    assert guarded.get("/%6civez").status_code == 200


def test_pages_have_their_scripts(guarded: httpx.Client) -> None:
    for page in ("/", "/embed", "/docs", "/redoc"):
        sources = re.findall(r'(?:src|href)="([^"]+)"', guarded.get(page).text)
        assert sources
        assert [guarded.get(source).status_code for source in sources] == [200] * len(sources)


@pytest.mark.parametrize("key", [KEY, OTHER])
def test_each_key_lets_in(guarded: httpx.Client, key: str) -> None:
    assert guarded.post("/v1/analyze", json=BODY, headers=bearer(key)).status_code == 200
    assert guarded.get("/metrics", headers={"authorization": f"bearer {key}"}).status_code == 200


REFUSED = {
    "another key": bearer("correct-horse-battery-stable"),
    "a part of the key": bearer(KEY[:-1]),
    "more than the key": bearer(KEY + "x"),
    "two keys in one": bearer(f"{KEY},{OTHER}"),
    "its digest": bearer(digest_of(OTHER).hex()),
    "its digest as it is written": bearer(f"sha256:{digest_of(OTHER).hex()}"),
    "its name": bearer("dashboard"),
    "name and key": bearer(f"dashboard:{KEY}"),
    "nothing": {"authorization": "Bearer"},
    "another scheme": {"authorization": f"Basic {KEY}"},
    "no scheme": {"authorization": KEY},
    "another header": {"x-api-key": KEY},
}


@pytest.mark.parametrize("case", REFUSED)
def test_nothing_else_lets_in(guarded: httpx.Client, case: str) -> None:
    problem(guarded.post("/v1/analyze", json=BODY, headers=REFUSED[case]), 401)


def test_key_that_is_no_ascii_is_refused(guarded: httpx.Client) -> None:
    problem(guarded.get("/v1/models", headers={b"authorization": b"Bearer \xff\xfe" + KEY.encode()}), 401)


def test_two_keys_are_none(guarded: httpx.Client) -> None:
    headers = [("authorization", f"Bearer {KEY}"), ("authorization", f"Bearer {KEY}")]
    problem(guarded.get("/v1/models", headers=headers), 401)


def test_key_in_the_query_is_none(guarded: httpx.Client) -> None:
    problem(guarded.get("/v1/models", params={"key": KEY, "authorization": f"Bearer {KEY}"}), 401)


def test_every_digest_is_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys(Settings(**KEYS))
    compared: list[bytes] = []

    def compare(known: bytes, given: bytes) -> bool:
        compared.append(known)
        return hmac.compare_digest(known, given)

    class Compare:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(auth, "hmac", Compare)
    for key, name in ((KEY, "dashboard"), (OTHER, "batch"), ("x" * 20, None)):
        compared.clear()
        assert keys.name_of(key) == name
        assert compared == [digest_of(KEY), digest_of(OTHER)]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of keys, which is looked at whenever it may have changed."""
    monkeypatch.setattr(auth, "CHECK_S", 0.0)
    path = tmp_path / "keys"
    path.write_text(f"# the dashboard's\ndashboard:{KEY}  # for now\n\n")
    return path


def test_keys_change_without_a_restart(model: kqv.Model, file: Path) -> None:
    with listening(make_app(model, api_keys_file=file)) as url, httpx.Client(base_url=url) as client:

        def statuses() -> tuple[int, int]:
            first, second = [client.get("/v1/models", headers=bearer(key)) for key in (KEY, OTHER)]
            return first.status_code, second.status_code

        assert statuses() == (200, 401)
        file.write_text(f"dashboard:{KEY}\ndashboard:{OTHER}\n")
        assert statuses() == (200, 200)
        replacement = file.with_suffix(".new")
        replacement.write_text(f"dashboard:{OTHER}\n")
        replacement.replace(file)
        assert statuses() == (401, 200)
        file.write_text("")
        assert statuses() == (401, 401)


@pytest.mark.parametrize("damage", ["gone", "garbage", "no text"])
def test_file_that_is_damaged_later_changes_nothing(
    model: kqv.Model, file: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    with listening(make_app(model, api_keys_file=file)) as url, httpx.Client(base_url=url) as client:
        if damage == "gone":
            file.unlink()
        else:
            file.write_bytes(b"hunter2hunter2hunter2\n" if damage == "garbage" else b"\xff\xfe\xff")
        assert client.get("/v1/models", headers=bearer(KEY)).status_code == 200
        file.write_text(f"dashboard:{OTHER}\n")
        assert client.get("/v1/models", headers=bearer(OTHER)).status_code == 200
    [error] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "stay as they were" in error
    assert "hunter2" not in error


def test_file_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(kqv.InputError, match="KQV_API_KEYS_FILE can't be read: No such file"):
        Keys(Settings(api_keys_file=tmp_path / "keys"))


@pytest.mark.parametrize(
    "entry", ["secretsecretsecret", ":secretsecretsecret", "a:short", "a b:secretsecretsecret", "a:sha256:beef"]
)
def test_wrong_entry_is_named_by_its_place(entry: str) -> None:
    with pytest.raises(kqv.InputError, match="entry 2 of KQV_API_KEYS is no NAME:KEY") as raised:
        read_keys(f"dashboard:{KEY},{entry}", "KQV_API_KEYS")
    assert "secret" not in str(raised.value)


def test_setting_of_no_keys_lets_nobody_in() -> None:
    assert Keys(Settings(api_keys="")).required
    assert not Keys(Settings()).required


def test_new_key_fits_its_entry() -> None:
    key, entry = new_key("dashboard")
    assert len(key) >= 40
    assert Keys(Settings(api_keys=entry)).name_of(key) == "dashboard"
    assert new_key("dashboard")[0] != key
    with pytest.raises(kqv.InputError, match="a key's name is"):
        new_key("dash:board")


async def test_secret_is_nowhere_to_be_seen(model: kqv.Model, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    app = make_app(model, **KEYS)
    seen = []
    async with serving(app) as client:
        for headers in (bearer(KEY), bearer(KEY[:-1]), {}):
            for path in ("/v1/models", "/openapi.json", "/metrics", "/nowhere"):
                response = await client.get(path, headers=headers)
                seen.append(response.text + str(response.headers))
    seen += [str(vars(record)) for record in caplog.records if record.name.startswith("service")]
    seen += [repr(app.state.service.settings), str(app.openapi())]
    assert [text for text in seen if KEY[:-1] in text] == []
    assert any("'key': 'dashboard'" in text for text in seen)


async def test_key_has_its_share_of_requests(model: kqv.Model) -> None:
    app = make_app(model, **KEYS, max_key_requests=2)
    async with serving(app) as client:

        async def ask(key: str) -> httpx.Response:
            return await client.post("/v1/analyze", json=BODY, headers=bearer(key))

        async with busy_device(app.state.service.batcher):
            waiting = [asyncio.create_task(ask(KEY)) for _ in range(2)]
            await until_waiting(app.state.service.batcher, 2)
            refused = await ask(KEY)
            assert "2 requests of this key" in problem(refused, 429)["detail"]
            assert refused.headers["retry-after"] == "1"
            assert (await client.get("/livez", headers=bearer(KEY))).status_code == 200
            waiting.append(asyncio.create_task(ask(OTHER)))
            await until_waiting(app.state.service.batcher, 3)
        assert [(await each).status_code for each in waiting] == [200, 200, 200]
        assert (await ask(KEY)).status_code == 200


def test_openapi_says_what_needs_a_key(guarded: httpx.Client) -> None:
    document = guarded.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert ("security" in operation) == ("401" in operation["responses"]) == (path not in PUBLIC), path


def test_openapi_asks_for_no_key_where_none_is_set(model: kqv.Model) -> None:
    document = make_app(model).openapi()
    assert "securitySchemes" not in document["components"]
    for methods in document["paths"].values():
        for operation in methods.values():
            assert not {"401", "403"} & operation["responses"].keys()
            assert "security" not in operation

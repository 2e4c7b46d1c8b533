"""Embed tokens: they open what they name, for whom they name, as long as they say, on every replica, and nothing else."""

import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from problems import check_invalid, problem
from serving import listening, make_app

import kqv
from service.app import create_app
from service.http import embed_tokens
from service.http.auth import Keys
from service.http.embed_tokens import EmbedTokens, Grant
from service.models import Models
from service.settings import Settings

KEY = "correct-horse-battery-staple"
SECRET, OLDER = "s" * 32, "o" * 40
HOST, FOREIGN = "https://host.example", "https://evil.example"
BODY = {"input": [2, 3, 5], "weights": "none"}


@pytest.fixture(scope="module")
def server(model: kqv.Model, decoder: kqv.Model) -> Iterator[httpx.Client]:
    models = Models(lambda: [model, decoder])
    models.load()
    settings = Settings(
        workers=1, threads=1, api_keys=f"site:{KEY}", embed_secret=f"{SECRET},{OLDER}", cors_origins=(HOST,), max_key_requests=3
    )
    with listening(create_app(settings, models)) as url, httpx.Client(base_url=url, timeout=10) as session:
        yield session


def bearer(token: str, origin: str | None = None) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} | ({"origin": origin} if origin else {})


def ask(server: httpx.Client, **body: Any) -> str:
    response = server.post("/v1/embed-tokens", json={"origins": [HOST]} | body, headers=bearer(KEY))
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    return str(response.json()["token"])


def test_token_is_asked_for_with_a_key_and_opens_what_it_names(server: httpx.Client, model: kqv.Model) -> None:
    problem(server.post("/v1/embed-tokens", json={"origins": [HOST]}), 401)
    token = ask(server)
    answer = server.post("/v1/analyze", json=BODY, headers=bearer(token, HOST))
    assert (answer.status_code, answer.json()["model"]) == (200, model.id)
    assert answer.headers["access-control-allow-origin"] == HOST
    for method, path in (("POST", "/v1/tokenize"), ("GET", "/v1/models"), ("GET", f"/v1/models/{model.id}")):
        assert server.request(method, path, json={"input": "a"}, headers=bearer(token, HOST)).status_code == 200, path


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/generate"),
        ("POST", "/v1/attend"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/embed-tokens"),
        ("GET", "/v1/embed-tokens"),
        ("POST", "/v1/models"),
        ("GET", "/v1/analyze"),
        ("POST", "/v1/analyze/"),
        ("POST", "//v1/analyze"),
        ("POST", "/v1/analyze/../generate"),
        ("GET", "/metrics"),
        ("GET", "/v2/models/stats"),
        ("POST", "/v2/models/tiny/infer"),
        ("GET", "/nowhere"),
    ],
)
def test_token_opens_nothing_else(server: httpx.Client, method: str, path: str) -> None:
    target = server.base_url.copy_with(raw_path=path.encode())
    answer = server.request(method, target, json=BODY, headers=bearer(ask(server), HOST))
    assert answer.status_code == 403, answer.text
    assert "embed token is for analyze, tokenize, models" in answer.text


def test_routes_and_models_are_those_of_its_scope(server: httpx.Client, model: kqv.Model, decoder: kqv.Model) -> None:
    token = ask(server, scope={"routes": ["generate", "models"], "models": [decoder.id]})
    assert [card["id"] for card in server.get("/v1/models", headers=bearer(token)).json()["data"]] == [decoder.id]
    document = problem(server.get(f"/v1/models/{model.id}", headers=bearer(token)), 404)
    assert model.id not in document["detail"].partition("there are:")[2]
    written = server.post("/v1/generate", json={"input": "a", "max_new_tokens": 1}, headers=bearer(token))
    assert written.json()["model"] == decoder.id  # the first of those that it sees
    problem(server.post("/v1/generate", json={"input": "a", "model": model.id}, headers=bearer(token)), 404)
    problem(server.post("/v1/analyze", json=BODY, headers=bearer(token)), 403)
    assert len(server.get("/v1/models", headers=bearer(KEY)).json()["data"]) == 2


def test_it_is_for_pages_of_its_origins_and_of_the_service_itself(server: httpx.Client) -> None:
    token = ask(server)
    own = str(server.base_url).rstrip("/")
    for origin, status in ((HOST, 200), (own, 200), (None, 200), (FOREIGN, 403), ("null", 403), (HOST + ":444", 403)):
        answer = server.post("/v1/analyze", json=BODY, headers=bearer(token, origin))
        assert answer.status_code == status, origin
    two = [*bearer(token, HOST).items(), ("origin", FOREIGN)]
    problem(server.post("/v1/analyze", json=BODY, headers=two), 403)
    own_alone = ask(server, origins=[])
    assert server.post("/v1/analyze", json=BODY, headers=bearer(own_alone, own)).status_code == 200
    problem(server.post("/v1/analyze", json=BODY, headers=bearer(own_alone, HOST)), 403)


def test_it_ends(server: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    token, before = ask(server, ttl=60), time.time()
    clock = [before]
    monkeypatch.setattr(embed_tokens.time, "time", lambda: clock[0])
    clock[0] = before + 58
    assert server.post("/v1/analyze", json=BODY, headers=bearer(token)).status_code == 200
    clock[0] = before + 61
    document = problem(server.post("/v1/analyze", json=BODY, headers=bearer(token)), 401)
    assert document["type"] == "urn:kqv:token-expired"
    assert "ask for a new one" in document["detail"]


@pytest.mark.parametrize(
    ("body", "loc", "complaint"),
    [
        ({"ttl": 301}, ["ttl"], "less than or equal to 300"),
        ({"ttl": 0}, ["ttl"], "greater than or equal to 1"),
        ({"origins": ["host.example"]}, ["origins", 0], "is no origin"),
        ({"origins": ["*"]}, ["origins", 0], "is no origin"),
        ({"scope": {"routes": ["metrics"]}}, ["scope", "routes", 0], "analyze"),
        ({"scope": {"routes": []}}, ["scope", "routes"], "at least 1"),
        ({"scope": {"path": "/"}}, ["scope", "path"], "no such field"),
    ],
)
def test_what_no_token_can_be_is_refused(server: httpx.Client, body: dict[str, Any], loc: list[str | int], complaint: str) -> None:
    check_invalid(server.post("/v1/embed-tokens", json={"origins": [HOST]} | body, headers=bearer(KEY)), loc, complaint)


def test_token_for_a_model_that_is_not_there_is_refused(server: httpx.Client) -> None:
    body = {"origins": [HOST], "scope": {"models": ["other"]}}
    problem(server.post("/v1/embed-tokens", json=body, headers=bearer(KEY)), 404)


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/analyze"), ("GET", "/v1/models"), ("GET", "/v1/models/gone")])
def test_token_whose_models_are_gone_is_refused_for_good(server: httpx.Client, decoder: kqv.Model, method: str, path: str) -> None:
    """Not as if they were still being loaded: nobody is to come back for them."""
    gone = bearer(EmbedTokens(Settings(embed_secret=SECRET)).make(replace(GRANT, models=("gone", "lost"))))
    document = problem(server.request(method, path, json=BODY, headers=gone), 403)
    assert document["detail"] == "this embed token is for gone, lost alone, and no such model is served; ask for another token"
    one_left = bearer(EmbedTokens(Settings(embed_secret=SECRET)).make(replace(GRANT, models=("gone", decoder.id))))
    assert server.post("/v1/analyze", json=BODY, headers=one_left).json()["model"] == decoder.id
    problem(server.post("/v1/analyze", json=BODY | {"model": "gone"}, headers=one_left), 404)


def test_token_waits_for_models_that_are_being_loaded(model: kqv.Model) -> None:
    models = Models(lambda: [model])
    token = bearer(EmbedTokens(Settings(embed_secret=SECRET)).make(replace(GRANT, models=(model.id,))))
    app = create_app(Settings(workers=1, threads=1, api_keys=f"site:{KEY}", embed_secret=SECRET), models)
    with listening(app) as url, httpx.Client(base_url=url, timeout=10) as client:
        assert problem(client.post("/v1/analyze", json=BODY, headers=token), 503)["title"] == "Unavailable"
        models.load()
        assert client.post("/v1/analyze", json=BODY, headers=token).status_code == 200


def tampered(token: str) -> Iterator[tuple[str, str]]:
    version, payload, signature = token.split(".")
    fields = json.loads(urlsafe_b64decode(payload + "=="))
    longer = urlsafe_b64encode(json.dumps(fields | {"expires_at": fields["expires_at"] + 9}).encode()).decode().rstrip("=")
    yield "later end", f"{version}.{longer}.{signature}"
    yield "other version", f"kqv2.{payload}.{signature}"
    yield "no signature", f"{version}.{payload}."
    yield "no payload", f"{version}..{signature}"
    yield "half a signature", f"{version}.{payload}.{signature[:20]}"
    yield "no text", f"{version}.{payload}.ü"
    yield "the payload alone", payload
    yield "others' secret", EmbedTokens(Settings(embed_secret="x" * 32)).make(GRANT)


GRANT = Grant("site", (HOST,), ("analyze", "models"), None, 1 << 40)


def test_no_other_token_opens_anything(server: httpx.Client) -> None:
    for case, token in tampered(ask(server)):
        headers = {"authorization": f"Bearer {token}".encode("latin-1")}
        document = problem(server.post("/v1/analyze", json=BODY, headers=headers), 401)
        assert document["type"] == "urn:kqv:unauthorized", case


def test_secrets_rotate_and_replicas_agree(server: httpx.Client) -> None:
    first, both, second = (EmbedTokens(Settings(embed_secret=each)) for each in (OLDER, f"{SECRET}, {OLDER}", SECRET))
    assert both.read(first.make(GRANT)) == GRANT == first.read(first.make(GRANT))
    assert second.read(both.make(GRANT)) == GRANT  # the first one signs
    assert second.read(first.make(GRANT)) is None
    assert server.post("/v1/analyze", json=BODY, headers=bearer(first.make(GRANT))).status_code == 200


def test_every_secret_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    real = embed_tokens.hmac.compare_digest

    class Compare:
        digest = staticmethod(embed_tokens.hmac.digest)

        @staticmethod
        def compare_digest(one: bytes, other: bytes) -> bool:
            compared.append(other)
            return real(one, other)

    tokens = EmbedTokens(Settings(embed_secret=f"{SECRET},{OLDER}"))
    token = EmbedTokens(Settings(embed_secret=OLDER)).make(GRANT)
    monkeypatch.setattr(embed_tokens, "hmac", Compare)
    assert tokens.read(token) == GRANT
    assert len(compared) == 2


@pytest.mark.parametrize("secret", ["short", f"{SECRET},short", f"{SECRET},,{OLDER}"])
def test_secret_that_is_none_is_told_at_once_and_not_shown(secret: str) -> None:
    with pytest.raises(kqv.InputError, match="of KQV_EMBED_SECRET is no secret") as raised:
        EmbedTokens(Settings(embed_secret=secret))
    assert "short" not in str(raised.value)
    assert "short" not in repr(Settings(embed_secret=secret))


def test_server_without_a_secret_makes_none(model: kqv.Model) -> None:
    with listening(make_app(model, api_keys=f"site:{KEY}")) as url, httpx.Client(base_url=url) as client:
        document = problem(client.post("/v1/embed-tokens", json={"origins": []}, headers=bearer(KEY)), 501)
        assert "KQV_EMBED_SECRET" in document["detail"]
        problem(client.post("/v1/analyze", json=BODY, headers=bearer(EmbedTokens(Settings(embed_secret=SECRET)).make(GRANT))), 401)


def test_token_is_no_key_and_a_key_no_token() -> None:
    token = EmbedTokens(Settings(embed_secret=SECRET)).make(GRANT)
    assert Keys(Settings(api_keys=f"site:{KEY}")).name_of(token) is None
    assert EmbedTokens(Settings(embed_secret=SECRET)).read(KEY) is None

"""The same views on other pages: in a frame, and as an element, from an origin that is let in and from one that isn't."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from browsing import Watched, colors_of, pixels_of
from playwright.sync_api import BrowserContext, Page, expect
from serving import listening, make_app

import kqv
from service.http.embed_tokens import Grant

KEY = "correct-horse-battery"
SECRET = "0123456789abcdef" * 2
TEXT = "The cat sat on the mat."
DASHBOARD = Path(__file__).parents[2] / "service" / "dashboard"


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and writes no log."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("host")


@pytest.fixture(scope="module")
def origins(folder: Path) -> Iterator[tuple[str, str]]:
    """Two sites with the same pages, of which one will be let in."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), lambda *given: Quiet(*given, directory=folder)) for _ in range(2)]
    threads = [threading.Thread(target=server.serve_forever) for server in servers]
    for thread in threads:
        thread.start()
    allowed, denied = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    yield allowed, denied
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def service(origins: tuple[str, str], minilm: kqv.Model) -> Iterator[tuple[str, Callable[..., str]]]:
    """A service with keys, which lets the first site in; its address, and how to make a token."""
    allowed, _ = origins
    app = make_app(
        minilm, api_keys=f"host:{KEY}", embed_secret=SECRET, cors_origins=(allowed,), frame_ancestors=("'self'", allowed)
    )

    def token(*, origin: str = allowed, seconds: int = 60) -> str:
        grant = Grant("host", (origin,), ("analyze", "tokenize", "models"), None, int(time.time()) + seconds)
        made: str = app.state.service.embed_tokens.make(grant)
        return made

    with listening(app) as url:
        yield url, token


@pytest.fixture
def visitor(context: BrowserContext) -> Page:
    return context.new_page()


def element(folder: Path, url: str, token: str, attributes: str = "") -> str:
    """A page with the element, which asks its own site for the token."""
    page = f"""<!doctype html><meta charset="utf-8"><title>host</title><link rel="icon" href="data:,">
        <script type="module" src="{url}/dashboard/kqv-attention.js"></script>
        <kqv-attention src="{url}" model="minilm" text="{TEXT}" {attributes}></kqv-attention>
        <script>document.querySelector("kqv-attention").token = async () => "{token}"</script>"""
    return put(folder, page)


def frame(folder: Path, url: str, token: str, query: str = "") -> str:
    page = f'<!doctype html><title>host</title><iframe src="{url}/embed{query}#token={token}" width="1000" height="800"></iframe>'
    return put(folder, page)


def put(folder: Path, page: str) -> str:
    """The path of a page that no browser has seen yet."""
    path = folder / f"{len(list(folder.iterdir()))}.html"
    path.write_text(page)
    return f"/{path.name}"


def test_an_element_on_another_site_shows_the_weights(
    visitor: Page, folder: Path, origins: tuple[str, str], service: tuple[str, Callable[..., str]]
) -> None:
    url, token = service
    watched = Watched(visitor, origins[0]).look_out()
    visitor.goto(origins[0] + element(folder, url, token(), 'parts="heads,map" layer="0" head="2"'))
    expect(visitor.locator("kqv-heads .is-open")).to_have_attribute("title", "L0 H2: entropy 0.0011")
    body = {"input": TEXT, "layers": [0], "heads": [2], "diagnostics": "none", "outputs": []}
    answer = httpx.post(f"{url}/v1/analyze", json=body, headers={"Authorization": f"Bearer {KEY}"}).json()
    weights = first_map(answer)
    assert (pixels_of(visitor.locator("kqv-map canvas"))[..., :3] == colors_of(weights)).all()
    visitor.evaluate("document.querySelector('kqv-attention').setAttribute('head', '3')")
    expect(visitor.locator("kqv-heads .is-open")).to_have_attribute("title", "L0 H3: entropy 1.94")
    assert watched.complaints == []
    assert watched.hosts == {origins[0].removeprefix("http://"), url.removeprefix("http://")}


def first_map(answer: dict[str, Any]) -> np.ndarray:
    return np.array(answer["results"][0]["attention"]["encoder"]["weights"])[0, 0]


def test_an_element_on_a_site_that_is_not_let_in_gets_nothing(
    visitor: Page, folder: Path, origins: tuple[str, str], service: tuple[str, Callable[..., str]]
) -> None:
    url, token = service
    visitor.goto(origins[1] + element(folder, url, token()))
    visitor.wait_for_timeout(700)
    assert visitor.evaluate("customElements.get('kqv-attention')") is None  # not even the script
    refused = visitor.evaluate("url => fetch(url + '/v1/models').then(() => 'answered', () => 'refused')", url)
    assert refused == "refused"


def test_a_site_that_is_not_let_in_gets_nothing_with_scripts_of_its_own_and_a_token_either(
    visitor: Page, folder: Path, origins: tuple[str, str], service: tuple[str, Callable[..., str]]
) -> None:
    url, token = service
    shutil.copytree(DASHBOARD, folder / "dashboard", dirs_exist_ok=True)
    page = element(folder, url, token(origin=origins[1]))
    file = folder / page.removeprefix("/")
    file.write_text(file.read_text().replace(f"{url}/dashboard/", "/dashboard/"))
    said: list[str] = []
    visitor.on("console", lambda message: said.append(message.text))
    visitor.goto(origins[1] + page)
    expect(visitor.locator(".notice")).to_contain_text("Nothing answers at this address")
    assert visitor.locator("kqv-heads .heads-cell").count() == 0
    assert any("CORS" in text and "preflight" in text for text in said)
    visitor.goto(origins[0] + page)  # the same page where it may
    expect(visitor.locator(".notice")).to_contain_text("for pages of other origins")


def test_a_page_of_another_site_reads_the_headers_that_it_may_and_no_others(
    visitor: Page, folder: Path, origins: tuple[str, str], service: tuple[str, Callable[..., str]]
) -> None:
    url, token = service
    visitor.goto(origins[0] + put(folder, "<!doctype html><title>host</title>"))
    names = visitor.evaluate(
        """async ([url, token]) => {
          const headers = {"Content-Type": "application/json", Authorization: `Bearer ${token}`, "X-Request-Id": "mine"};
          const answer = await fetch(url + "/v1/analyze", {method: "POST", headers, body: '{"input": "a", "outputs": []}'});
          return [answer.headers.get("x-request-id"), ...answer.headers.keys()];
        }""",
        [url, token()],
    )
    assert names[0] == "mine"
    assert (
        {"server-timing", "x-request-id"} <= {*names} <= {"mine", "server-timing", "x-request-id", "content-type", "content-length"}
    )


def test_a_new_token_is_asked_for_when_the_old_one_has_ended(
    visitor: Page, folder: Path, origins: tuple[str, str], service: tuple[str, Callable[..., str]]
) -> None:
    url, token = service
    watched = Watched(visitor, origins[0]).look_out()
    visitor.goto(origins[0] + element(folder, url, token(seconds=-5)))
    expect(visitor.locator(".notice")).to_contain_text("expired")
    fresh = token()
    visitor.evaluate("token => {document.querySelector('kqv-attention').token = () => Promise.resolve(token)}", fresh)
    visitor.locator("kqv-heads .heads-cell").first.wait_for()
    assert not any(fresh in asked for asked in watched.requests)  # never in an address, which logs would keep
    assert watched.complaints == []


def test_expired_and_foreign_tokens_are_refused_in_words(
    visitor: Page, folder: Path, origins: tuple[str, str], service: tuple[str, Callable[..., str]]
) -> None:
    url, token = service
    visitor.goto(origins[0] + element(folder, url, token(seconds=-5)))
    expect(visitor.locator(".notice")).to_contain_text("expired")
    visitor.goto(origins[0] + element(folder, url, token(origin="https://other.example")))
    expect(visitor.locator(".notice")).to_contain_text("for pages of other origins")


def test_a_site_that_is_let_in_may_frame_the_view(
    visitor: Page, folder: Path, origins: tuple[str, str], service: tuple[str, Callable[..., str]]
) -> None:
    url, token = service
    visitor.goto(origins[0] + frame(folder, url, token(), "?model=minilm&parts=heads,tokens&measure=previous"))
    inside = visitor.frame_locator("iframe")
    expect(inside.locator("kqv-heads .heads-cell")).to_have_count(72)
    expect(inside.locator("kqv-heads .heads-cell").nth(2)).to_have_attribute("title", "L0 H2: previous token 0.9999")
    expect(inside.locator(".token").nth(2)).to_have_text("cat")


def test_a_frame_tells_of_an_expired_token_and_keeps_tokens_out_of_addresses(
    visitor: Page, folder: Path, origins: tuple[str, str], service: tuple[str, Callable[..., str]]
) -> None:
    url, token = service
    watched = Watched(visitor, origins[0]).look_out()
    old, fresh = token(seconds=-5), token()
    visitor.goto(origins[0] + frame(folder, url, old))
    expect(visitor.frame_locator("iframe").locator(".notice")).to_contain_text("expired")
    visitor.goto(origins[0] + frame(folder, url, fresh, "?model=minilm&layer=0&head=2"))
    visitor.frame_locator("iframe").locator("kqv-heads .heads-cell").first.wait_for()
    sent = [request.partition("#")[0] for request in watched.requests]  # what is behind the # stays in the browser
    assert not any(old in address or fresh in address for address in sent)


def test_a_site_that_is_not_let_in_may_not(
    visitor: Page, folder: Path, origins: tuple[str, str], service: tuple[str, Callable[..., str]]
) -> None:
    url, token = service
    said: list[str] = []
    visitor.on("console", lambda message: said.append(message.text))
    visitor.goto(origins[1] + frame(folder, url, token()))
    visitor.wait_for_timeout(700)
    assert any("frame-ancestors" in text for text in said)
    assert visitor.frame_locator("iframe").locator("kqv-attention").count() == 0


def test_a_server_with_keys_is_opened_with_one(visitor: Page, service: tuple[str, Callable[..., str]]) -> None:
    url, _ = service
    visitor.goto(url)
    visitor.get_by_label("API key").fill("wrong")
    visitor.get_by_role("button", name="Use it").click()
    expect(visitor.locator(".notice")).to_contain_text("not known here")
    visitor.get_by_label("API key").fill(KEY)
    visitor.get_by_role("button", name="Use it").click()
    expect(visitor.get_by_role("heading", name="Head L0 H2")).to_be_visible()

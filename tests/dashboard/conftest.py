"""The dashboard in a browser: Debian's Chromium against the real server, and a watch on what the page asks for and complains of."""

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browsing import Watched
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from serving import listening
from tools import tool

import kqv
from kqv.store import DEFAULT_STORE, find
from service.app import create_app
from service.models import Models
from service.settings import Settings

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


@pytest.fixture(scope="session")
def server(minilm_directory: Path) -> Iterator[str]:
    """MiniLM and the three minis on a port of the loopback."""
    minis = [find(name, DEFAULT_STORE) for name in ("mini-bert", "mini-gpt", "mini-t5")]
    models = Models(lambda: [kqv.load(directory) for directory in (minilm_directory, *minis)])
    models.load()
    with listening(create_app(Settings(workers=1, threads=1), models)) as url:
        yield url


@pytest.fixture(scope="module")  # until it closes, Playwright's own event loop runs, and no other one beside it
def browser() -> Iterator[Browser]:
    program = tool("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    context.set_default_timeout(10_000)
    yield context
    context.close()


@pytest.fixture
def watched(context: BrowserContext, server: str) -> Iterator[Watched]:
    """A page that may fail at nothing and ask nobody else."""
    watched = Watched(context.new_page(), server).look_out()
    yield watched
    assert watched.complaints == []
    assert watched.hosts <= {urlsplit(server).netloc}


@pytest.fixture
def page(watched: Watched) -> Page:
    """The dashboard, with its example answered."""
    return watched.open()


@pytest.fixture
def choose(page: Page) -> Callable[[str], None]:
    """Chooses another model, and waits for what it says."""

    def choose(model: str) -> None:
        with page.expect_response("**/v1/analyze"):
            page.get_by_label("Model").first.select_option(model)
        page.wait_for_selector("kqv-heads canvas")

    return choose

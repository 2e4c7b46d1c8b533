"""Take the dashboard's pictures from a running page: `python docs/screenshots.py`, with kqv[dev], MiniLM and chromium."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from serving import listening  # noqa: E402

import kqv  # noqa: E402
from service.app import create_app  # noqa: E402
from service.models import Models  # noqa: E402
from service.settings import Settings  # noqa: E402

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
MODELS = ("minilm", "mini-bert", "mini-gpt", "mini-t5")


def open_page(browser: Browser, url: str, scheme: str = "light", width: int = 1440) -> Page:
    """The dashboard, with its example answered."""
    page = browser.new_page(viewport={"width": width, "height": 1360}, color_scheme=scheme)
    page.goto(url)
    page.wait_for_selector(".row-key")
    return page


def turn(page: Page, name: str) -> None:
    page.get_by_role("navigation").get_by_role("button", name=name).click()
    page.wait_for_timeout(1500)


def choose(page: Page, model: str) -> None:
    with page.expect_response("**/v1/analyze"):
        page.get_by_label("Model").first.select_option(model)
    page.wait_for_timeout(500)


def find_previous(page: Page) -> Locator:
    """The head that looks at the previous token, in two clicks."""
    page.get_by_role("button", name="Previous token").click()
    page.locator(".ranking-row").first.click()
    page.locator(".token", has_text="mat").click()
    page.get_by_role("heading", name="Heads").hover()
    return page.locator("body")


def show_lines(page: Page) -> Locator:
    page.get_by_label("L1 H8:").click()
    page.get_by_role("button", name="Lines").click()
    return page.locator(".head-body")


def take_apart(page: Page) -> Locator:
    page.get_by_label("L1 H8:").click()
    turn(page, "Step by step")
    return page.locator(".steps")


def see_heads(page: Page) -> Locator:
    page.get_by_role("button", name="Special tokens").click()
    return page.locator("kqv-heads")


def look_back(page: Page) -> Locator:
    """A decoder's induction head, on a text that repeats itself."""
    choose(page, "mini-gpt")
    page.get_by_role("textbox", name="Text").fill("one two three four one two three four one two three four")
    with page.expect_response("**/v1/analyze"):
        page.get_by_role("button", name="Analyze").click()
    page.get_by_role("button", name="Induction", exact=True).click()
    page.locator(".ranking-row").first.click()
    page.get_by_role("heading", name="Heads").hover()
    return page.locator(".map-frame").first


def look_across(page: Page) -> Locator:
    choose(page, "mini-t5")
    page.get_by_role("button", name="Cross").click()
    page.get_by_label("L1 H0:").click()
    page.get_by_role("heading", name="Heads").hover()
    return page.locator(".map-frame").first


def compare(page: Page) -> Locator:
    page.get_by_label("L1 H8:").click()
    turn(page, "Compare")
    page.get_by_role("button", name="Dense and Longformer").click()
    page.wait_for_timeout(1500)
    return page.locator(".compare-sides")


def write(page: Page) -> Locator:
    turn(page, "Generate")
    page.get_by_label("Temperature").focus()
    return page.locator(".timeline")


TOUR: dict[str, Callable[[Page], Locator]] = {
    "heads": see_heads,
    "lines": show_lines,
    "steps": take_apart,
    "decoder": look_back,
    "cross": look_across,
    "compare": compare,
    "generate": write,
}


def take(browser: Browser, url: str) -> None:
    """All of them: the whole page in both themes, and its parts for the tour."""
    for scheme in ("light", "dark"):
        page = open_page(browser, url, scheme)
        find_previous(page)
        page.wait_for_timeout(300)
        page.screenshot(path=ROOT / "docs" / f"dashboard-{scheme}.png")
        page.close()
    for name, show in TOUR.items():
        page = open_page(browser, url, width=1200)
        part = show(page)
        page.wait_for_timeout(500)
        part.screenshot(path=ROOT / "docs" / "tour" / f"{name}.png")
        page.close()


if __name__ == "__main__":
    models = Models(lambda: [kqv.load(name) for name in MODELS])
    models.load()
    with listening(create_app(Settings(workers=1, threads=1), models)) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        take(browser, url)
        browser.close()

"""Take the dashboard's pictures from a running page: `python docs/screenshots.py`, with kqv[dev], MiniLM and chromium."""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from serving import listening, make_app  # noqa: E402

import kqv  # noqa: E402

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SIZE = (1440, 1080)


def take(browser: Browser, url: str, scheme: str, path: Path) -> None:
    """The head that looks at the previous token, in light or dark."""
    width, height = SIZE
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto(url)
    page.get_by_role("button", name="Previous token").click()
    page.locator(".ranking-row").first.click()
    page.locator(".token", has_text="mat").click()
    page.get_by_role("heading", name="Heads").hover()
    page.wait_for_timeout(300)
    page.screenshot(path=path)
    page.close()


if __name__ == "__main__":
    app = make_app(kqv.load("minilm"))
    with listening(app) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for scheme in ("light", "dark"):
            take(browser, url, scheme, ROOT / "docs" / f"dashboard-{scheme}.png")
        browser.close()

"""The page of an analysis in a browser, opened from disk: its heads without scripts, its measures with the one that it allows."""

from pathlib import Path

import pytest
from browsing import Watched
from playwright.sync_api import Browser, BrowserContext, Page, expect

import kqv


@pytest.fixture(scope="module")
def analysis() -> kqv.Analysis:
    [found] = kqv.load("mini-bert").analyze(["the cat sat"])
    return found


@pytest.fixture(scope="module")
def address(analysis: kqv.Analysis, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("page") / "cat.html"
    file.write_text(analysis.page(), encoding="utf-8")
    return file.as_uri()


def cell_of(page: Page, layer: int, head: int) -> str:
    """How a head's cell looks and what it says."""
    cell = page.locator(f'td[title^="layer {layer}, head {head}:"]')
    found: str = cell.evaluate("cell => [cell.title, cell.textContent, cell.style.background].join(' | ')")
    return found


def test_another_measure_makes_the_page_that_would_be_made_with_it(
    context: BrowserContext, address: str, analysis: kqv.Analysis, tmp_path: Path
) -> None:
    chosen, made = context.new_page(), context.new_page()
    watched = Watched(chosen, address).look_out()
    chosen.goto(address)
    chosen.get_by_label("Measure").select_option("max_weight")
    (tmp_path / "made.html").write_text(analysis.page("max_weight"), encoding="utf-8")
    made.goto((tmp_path / "made.html").as_uri())
    for layer, head in ((0, 0), (1, 2), (3, 3)):
        assert cell_of(chosen, layer, head) == cell_of(made, layer, head)
    expect(chosen.locator("figcaption")).to_contain_text("heads by max weight (0 dark to 1 bright)")
    value = float(analysis.attention["encoder"].diagnostics["max_weight"][1, 2])
    assert cell_of(chosen, 1, 2).startswith(f"layer 1, head 2: max weight {value:.2f} | {value:.2f} | rgb(")
    assert watched.complaints == [] and watched.requests == [address]


def test_heads_are_chosen_by_pointer_and_by_keys(context: BrowserContext, address: str) -> None:
    page = context.new_page()
    page.goto(address)
    page.locator('label[for="g0-1-2"]').click()
    expect(page.locator(".map.g0-1-2 svg")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".map.g0-1-3 svg")).to_be_visible()
    expect(page.locator(".map svg:visible")).to_have_count(1)


def test_without_scripts_all_heads_are_there_and_nothing_that_does_nothing(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    expect(page.locator("select")).to_be_hidden()
    page.locator('label[for="g0-3-1"]').click()
    expect(page.locator(".map.g0-3-1 svg")).to_be_visible()
    context.close()


def test_no_other_script_runs(context: BrowserContext, analysis: kqv.Analysis, tmp_path: Path) -> None:
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    (tmp_path / "evil.html").write_text(analysis.page().replace("<section>", "<section><script>window.ran = 1</script>"))
    page.goto((tmp_path / "evil.html").as_uri())
    assert page.evaluate("window.ran") is None
    assert any("Content Security Policy" in each for each in said)

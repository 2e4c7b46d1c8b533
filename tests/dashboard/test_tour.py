"""docs/tour.md: its clicks lead where it says, and its figures are the model's."""

import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

import kqv

TOUR = (Path(__file__).parents[2] / "docs" / "tour.md").read_text(encoding="utf-8")


def ask(page: Page, text: str) -> None:
    page.get_by_role("textbox", name="Text").fill(text)
    with page.expect_response("**/v1/analyze"):
        page.get_by_role("button", name="Analyze").click()


def test_the_previous_token_head_is_found_by_the_clicks_that_are_told(page: Page) -> None:
    assert "click *Previous token*, then the first head of the list. It is head 2 of\nlayer 0, with 0.9999" in TOUR
    page.get_by_role("button", name="Previous token").click()
    first, second = (page.locator(".ranking-row").nth(place) for place in (0, 1))
    expect(first).to_contain_text(re.compile(r"L0 H2.*0\.9999"))
    expect(second).to_contain_text(re.compile(r"L2 H11.*0\.4089"))
    first.click()
    expect(page.get_by_role("heading", name="Head L0 H2")).to_be_visible()
    assert "head 11 of layer 2, has 0.4089" in TOUR


def test_the_figures_of_the_six_steps_are_the_models(minilm: kqv.Model) -> None:
    [analysis] = minilm.analyze(["The cat sat on the mat."], outputs=["q", "k"])
    found = analysis.attention["encoder"]
    assert analysis.tokens is not None and analysis.tokens[3:5] == ("sat", "on")
    query, key, weights = found.q[1, 8, 3], found.k[1, 8, 4], found.weights[1, 8]
    score = float(query @ key)
    assert f"q·k is {score:.1f}; its vectors have {len(key)}\n" in TOUR
    assert f"√{len(key)} and becomes {score / len(key) ** 0.5:.2f};" in TOUR
    assert f"of the row's exp that is {float(weights[3, 4]):.0%}".replace("%", " %") in TOUR
    looked_at = weights.argmax(-1).tolist()
    assert sum(key == query + 1 for query, key in enumerate(looked_at)) == 6 and looked_at.count(0) == 3
    assert "six of nine tokens\nlook most at the one after them, the other three at `[CLS]`" in TOUR


def test_the_decoder_looks_at_what_came_next_the_last_time(page: Page, choose: Callable[[str], None]) -> None:
    choose("mini-gpt")
    ask(page, "one two three four one two three four one two three four")
    page.get_by_role("button", name="Induction", exact=True).click()
    page.locator(".ranking-row").first.click()
    page.locator(".token").nth(14).click()  # the third "two"
    expect(page.locator(".row-key").first).to_contain_text("th")  # of "three", which came after the others


def test_the_decoder_across_reads_what_it_writes_next(page: Page, choose: Callable[[str], None]) -> None:
    choose("mini-t5")
    page.get_by_role("button", name="Cross").click()
    page.get_by_label("L1 H0:").click()
    written = page.locator("kqv-tokens").first.locator(".token")
    expect(written).to_have_text(["<pad>", *"1985-03-21"])
    for place, following in enumerate("1985"):
        written.nth(place).click()
        expect(page.locator(".readout")).to_contain_text(re.compile(rf"→ {following} \("))

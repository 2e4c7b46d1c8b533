"""Looking at a text: heads, maps, tokens, and the keyboard."""

import json
import re
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from browsing import colors_of, pixels_of
from playwright.sync_api import Page, expect

CAT = "The cat sat on the mat."


def weights_of(server: str, layer: int, head: int, text: str = CAT, model: str = "minilm", group: str = "encoder") -> np.ndarray:
    body = {"model": model, "input": text, "layers": [layer], "heads": [head], "diagnostics": "none", "outputs": []}
    [result] = httpx.post(f"{server}/v1/analyze", json=body).json()["results"]
    return np.array(result["attention"][group]["weights"])[0, 0]


def open_head(page: Page, layer: int, head: int) -> None:
    page.locator("kqv-heads .heads-cell").and_(page.get_by_label(re.compile(rf"^L{layer} H{head}:"))).click()
    expect(page.get_by_role("heading", name=f"Head L{layer} H{head}")).to_be_visible()


def test_the_previous_token_head_is_two_clicks_away(page: Page) -> None:
    page.get_by_role("button", name="Previous token").click()
    page.locator(".ranking-row").first.click()
    expect(page.get_by_role("heading", name="Head L0 H2")).to_be_visible()
    expect(page.locator(".ranking-row").first).to_contain_text("0.9999")


@pytest.mark.parametrize(("layer", "head"), [(0, 2), (3, 11)])
def test_a_map_has_the_colours_of_the_weights(page: Page, server: str, layer: int, head: int) -> None:
    open_head(page, layer, head)
    found = pixels_of(page.locator("kqv-map canvas"))
    assert (found[..., :3] == colors_of(weights_of(server, layer, head))).all()


def test_a_longer_text_s_map_is_fetched_whole(page: Page, server: str) -> None:
    text = "the quick brown fox jumps over the lazy dog " * 5
    page.get_by_role("textbox", name="Text").fill(text)
    page.get_by_role("button", name="Analyze").click()
    expect(page.locator("kqv-map canvas")).to_have_attribute("width", "47")
    open_head(page, 1, 8)
    expected = colors_of(weights_of(server, 1, 8, text))
    page.wait_for_function("width => document.querySelector('kqv-map canvas').width === width", arg=47)
    page.wait_for_timeout(300)
    assert (pixels_of(page.locator("kqv-map canvas"))[..., :3] == expected).all()


def test_a_thumbnail_and_its_frame_say_what_the_head_does(page: Page, server: str) -> None:
    page.get_by_role("button", name="Previous token").click()
    cell = page.get_by_label(re.compile("^L0 H2:"))
    expect(cell).to_have_attribute("aria-label", "L0 H2: previous token 0.9999")
    assert (pixels_of(cell.locator("canvas"))[..., :3] == colors_of(weights_of(server, 0, 2))).all()
    color = cell.evaluate("cell => getComputedStyle(cell).backgroundColor")
    assert color == f"rgb({', '.join(map(str, colors_of(np.array(0.9999))))})"


def test_pointing_tells_of_a_token_in_every_view_and_a_click_holds_it(page: Page, server: str) -> None:
    open_head(page, 0, 2)
    token = page.locator(".token", has_text="mat")
    token.hover()
    expect(page.locator(".readout")).to_have_text(re.compile(r"mat \(6\) → the \(5\)"))
    expect(page.locator(".map-rows .is-seen")).to_have_text("mat")
    token.click()
    page.get_by_role("heading", name="Heads").hover()
    expect(page.locator(".token.is-from")).to_have_text("mat")
    expect(page.locator(".row-key").first).to_have_text(re.compile(r"^the\s*5\s*" + f"{weights_of(server, 0, 2)[6, 5]:.4f}"))


def test_hidden_special_tokens_are_accounted_for(page: Page, server: str) -> None:
    open_head(page, 4, 2)
    page.get_by_label("Hide special tokens").check()
    expect(page.locator(".map-rows .map-name").first).to_have_text("the")
    weights = weights_of(server, 4, 2)
    assert (pixels_of(page.locator("kqv-map canvas"))[..., :3] == colors_of(weights[1:-1, 1:-1])).all()
    hidden = weights[1:-1, [0, -1]].sum(1).mean()
    expect(page.locator(".hiding")).to_contain_text(f"{100 * hidden:.0f} % of the weight is on them")


def test_scales_change_the_colours_and_not_the_figures(page: Page, server: str) -> None:
    open_head(page, 3, 11)
    page.get_by_role("button", name="√", exact=True).click()
    expected = colors_of(np.sqrt(weights_of(server, 3, 11)))
    assert (pixels_of(page.locator("kqv-map canvas"))[..., :3] == expected).all()


def test_the_keyboard_alone_goes_everywhere(page: Page) -> None:
    page.locator("kqv-heads .is-open").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Head L1 H3")).to_be_visible()
    page.keyboard.press("]")
    page.keyboard.press("}")
    expect(page.get_by_role("heading", name="Head L2 H4")).to_be_visible()
    page.keyboard.press("[")
    page.keyboard.press("{")
    page.locator(".map-stage").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    expect(page.locator(".readout")).to_have_text(re.compile(r"cat \(2\) → the \(1\)"))
    expect(page.locator(".map-lock")).to_be_visible()


def test_the_map_is_a_table_too(page: Page, server: str) -> None:
    open_head(page, 1, 8)
    page.get_by_role("button", name="Table").click()
    cells = page.locator("tbody tr").nth(3).locator("td")
    assert cells.nth(2).inner_text() == f"{weights_of(server, 1, 8)[3, 2]:.4f}"


def test_heads_are_found_by_name_and_by_value(page: Page) -> None:
    page.get_by_role("button", name="Previous token").click()
    search = page.get_by_label("Search heads by name or value")
    search.fill("> 0.9")
    expect(page.locator(".ranking-row")).to_have_count(1)
    search.fill("L5")
    expect(page.locator(".ranking-row")).to_have_count(12)
    page.get_by_role("button", name="Strongest first").click()
    shown = [float(text.replace("−", "-")) for text in page.locator(".ranking-row .figure").all_inner_texts()]
    assert shown == sorted(shown)


def measure_of(server: str, name: str) -> np.ndarray:
    body = {"model": "minilm", "input": CAT, "diagnostics": [name], "weights": "none", "outputs": []}
    [result] = httpx.post(f"{server}/v1/analyze", json=body).json()["results"]
    return np.array(result["attention"]["encoder"]["diagnostics"][name])


def test_measures_that_come_by_name_only_are_asked_for(page: Page, server: str) -> None:
    page.get_by_role("button", name="Strongest sink").click()
    strongest = measure_of(server, "max_received")
    expect(page.get_by_label(re.compile("^L2 H3: strongest sink"))).to_have_attribute(
        "aria-label", f"L2 H3: strongest sink {strongest[2, 3]:.4f}"
    )
    page.get_by_role("button", name="Distinctness").click()
    apart = measure_of(server, "similarity")
    expect(page.locator(".ranking-row .figure").first).to_have_text(f"{(apart.sum(2) / 11).max():.4f}")
    open_head(page, 0, 3)
    map_ = page.locator(".pairs kqv-map")
    found = pixels_of(map_.locator("canvas"))[..., :3].astype(int)
    assert (np.abs(found - colors_of(apart[0] / np.log(2))) <= 2).all()  # the ends of both are rounded apart
    map_.locator(".map-stage").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    expect(page.locator(".pairs-said")).to_contain_text(re.compile(r"L0 H1 and L0 H\d+ are 0\.\d{4} apart"))
    expect(page.get_by_role("heading", name="Head L0 H1")).to_be_visible()


def test_encoder_decoder_and_cross_are_shown_apart(page: Page, server: str, choose: Callable[[str], None]) -> None:
    choose("mini-t5")
    page.get_by_role("button", name="Cross").click()
    expect(page.locator(".strip")).to_have_count(2)
    open_head(page, 1, 0)
    found = pixels_of(page.locator("kqv-map canvas"))
    expected = weights_of(server, 1, 0, "the 21st of March, 1985", "mini-t5", "cross")
    assert (found[..., :3] == colors_of(expected)).all()


HOSTILE = "<script>window.taken = 1</script><img src=x onerror='window.taken = 2'> & \"quotes\""


def test_markup_in_a_text_stays_text(page: Page, choose: Callable[[str], None]) -> None:
    choose("mini-gpt")
    page.get_by_role("textbox", name="Text").fill(HOSTILE)
    page.get_by_role("button", name="Analyze").click()
    page.wait_for_timeout(500)
    assert page.evaluate("window.taken") is None
    assert page.locator("main img, main script").count() == 0


def test_markup_in_a_token_stays_text(page: Page) -> None:
    def forge(route: object) -> None:
        answer = route.fetch()  # type: ignore[attr-defined]
        told = answer.json()
        told["results"][0]["tokens"][2] = HOSTILE
        route.fulfill(response=answer, body=json.dumps(told))  # type: ignore[attr-defined]

    page.route("**/v1/analyze", forge)
    page.get_by_role("button", name="Analyze").click()
    expect(page.locator(".token", has_text="onerror")).to_be_visible()
    assert page.evaluate("window.taken") is None
    assert page.locator("main img, main script").count() == 0

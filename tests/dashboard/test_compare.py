"""Lines, comparisons, and attention step by step."""

import re

import httpx
import numpy as np
import pytest
from browsing import colors_of, pixels_of
from playwright.sync_api import Page, expect

CAT = "The cat sat on the mat."


def analyze(server: str, **body: object) -> dict[str, np.ndarray]:
    body = {"model": "minilm", "input": CAT, "diagnostics": "none", "outputs": [], **body}
    [result] = httpx.post(f"{server}/v1/analyze", json=body).json()["results"]
    return {
        name: np.array(value)[0, 0]
        for name, value in result["attention"]["encoder"].items()
        if name not in ("layers", "heads", "attention", "comparison")
    }


def test_lines_go_to_the_strongest_keys_or_up_to_a_share_of_the_weight(page: Page, server: str) -> None:
    page.get_by_role("button", name="Lines").click()
    expect(page.locator(".lines-said")).to_have_text("18 lines for 9 of 9 queries.")
    page.get_by_role("button", name="Share of the weight").click()
    weights = -np.sort(-analyze(server, layers=[0], heads=[2])["weights"])
    needed = (weights.cumsum(1) < 0.7).sum() + 9
    expect(page.locator(".lines-said")).to_have_text(f"{needed} lines for 9 of 9 queries.")
    page.locator(".lines-from .lines-token", has_text="mat").hover()
    expect(page.locator(".readout")).to_contain_text("mat (6) → the (5)")
    assert (pixels_of(page.locator(".lines-canvas"))[..., 3] > 0).any()


def sides(page: Page) -> list[np.ndarray]:
    page.wait_for_function("() => document.querySelectorAll('.side kqv-map canvas[width=\"9\"]').length === 3")
    return [pixels_of(page.locator(".side kqv-map canvas").nth(side))[..., :3] for side in range(3)]


def test_two_heads_stand_beside_their_difference(page: Page, server: str) -> None:
    page.get_by_role("button", name="Compare").click()
    one, other = (analyze(server, layers=[0], heads=[head])["weights"] for head in (2, 3))
    left, right, difference = sides(page)
    assert (left == colors_of(one)).all() and (right == colors_of(other)).all()
    more, less = one - other > 0.1, one - other < -0.1
    red, blue = difference[..., 0].astype(int), difference[..., 2].astype(int)
    assert (red > blue)[more].all() and (blue > red)[less].all()
    page.locator(".side kqv-map").nth(1).locator(".map-stage").hover(position={"x": 5, "y": 5})
    expect(page.locator(".side").nth(0).locator(".map-rows .is-seen")).to_have_text("[CLS]")
    expect(page.locator(".side .readout")).to_contain_text(re.compile(r"\[CLS\] → \[CLS\]"))


@pytest.mark.parametrize("kind", ["Longformer", "Linformer", "Performer"])
def test_the_same_weights_run_under_another_attention(page: Page, server: str, kind: str) -> None:
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("button", name=f"Dense and {kind}").click()
    expect(page.get_by_role("region", name="Difference")).to_contain_text("of its length away from dense")
    parameters = {"Longformer": {"window": 4}, "Linformer": {"rank": 4}, "Performer": {"features": 64}}[kind]
    expected = analyze(server, layers=[0], heads=[2], attention={"kind": kind.lower(), **parameters})["weights"]
    _, right, _ = sides(page)
    assert (np.abs(right.astype(int) - colors_of(expected)) <= 8).all()  # sums in another order fall on a neighbouring colour


def test_maps_of_different_sizes_have_no_difference(page: Page) -> None:
    page.get_by_role("button", name="Compare").click()
    sides(page)
    page.get_by_label("Side B").get_by_label("Text").fill("A dog.")
    page.get_by_label("Side B").get_by_label("Text").blur()
    expect(page.get_by_role("region", name="Difference")).to_contain_text("A is 9 × 9 tokens and B 5 × 5")


def test_two_models_and_two_texts_are_compared(page: Page) -> None:
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("button", name="Two texts").click()
    expect(page.get_by_label("Side B").get_by_label("Text")).to_have_value("The cat sat on the sofa.")
    page.get_by_role("button", name="Two models").click()
    expect(page.get_by_label("Side B").get_by_label("Model")).to_have_value("mini-bert")


@pytest.mark.parametrize("model", ["minilm", "mini-gpt", "mini-t5"])
def test_six_steps_lead_to_the_weights_that_the_model_used(page: Page, model: str) -> None:
    with page.expect_response("**/v1/analyze"):
        page.get_by_label("Model").first.select_option(model)
    page.get_by_role("button", name="Step by step").click()
    expect(page.locator(".step")).to_have_count(6)
    note = page.locator(".workshop-note")
    expect(note).to_contain_text(
        re.compile(r"(exactly|within \d\.\d·10⁻([⁶⁷⁸⁹]|¹\d?[⁰¹²³⁴⁵⁶⁷⁸⁹]) of) the weights that the model used")
    )


def test_one_s_own_tensors_are_taken_apart(page: Page) -> None:
    page.get_by_role("button", name="Step by step").click()
    page.get_by_role("button", name="My Q, K, V").click()
    page.locator(".own textarea").fill('{"q": [[1, 0], [0, 1]], "k": [[1, 0], [0, 1]], "v": [[1, 2], [3, 4]]}')
    page.locator(".own").get_by_label("Mask").select_option("causal")
    weights = page.locator(".step").nth(4).locator("canvas")
    expect(weights).to_have_attribute("width", "2")
    page.wait_for_timeout(300)
    assert (pixels_of(weights)[..., :3] == colors_of(np.array([[1, 0], [0.3302, 0.6698]]))).all()
    page.get_by_role("button", name="My embeddings").click()
    expect(page.get_by_role("group", name="Head").get_by_role("button")).to_have_count(2)
    page.locator(".own textarea").fill('{"q": [[1]]}')
    page.get_by_role("button", name="Compute").click()
    page.wait_for_selector(".workshop .notice")
    page.locator(".own textarea").fill("{")
    page.get_by_role("button", name="Compute").click()
    expect(page.locator(".workshop .notice")).to_contain_text("Not JSON")

"""A text as it is written, and how the service is doing meanwhile."""

import re
from collections.abc import Callable

import httpx
import numpy as np
from browsing import colors_of, pixels_of
from playwright.sync_api import Page, expect


def test_each_new_token_has_the_row_it_was_chosen_by(page: Page, server: str) -> None:
    page.get_by_role("button", name="Generate").click()
    expect(page.locator(".timeline .readout")).to_contain_text("so many tokens were asked for")
    page.get_by_role("button", name="H2", exact=True).click()
    body = {"model": "mini-gpt", "input": "The cat sat on", "max_new_tokens": 24, "weights": "full", "layers": [0], "heads": [2]}
    [written] = httpx.post(f"{server}/v1/generate", json=body).json()["results"]
    weights = np.array(written["attention"]["decoder"]["weights"])[0, 0][-24:]
    found = pixels_of(page.locator(".generate-map canvas"))
    seen = np.arange(weights.shape[1]) <= np.arange(24)[:, None] + weights.shape[1] - 24
    assert (found[..., :3] == colors_of(np.sqrt(weights)))[seen].all()
    assert (found[..., 3] < 255)[~seen].all()
    scrub = page.get_by_label("Step", exact=True)
    scrub.focus()
    scrub.press("Home")
    expect(page.locator(".timeline .readout b")).to_have_text(re.compile(r"·?" + re.escape(written["tokens"][0].strip("Ġ "))))
    strongest = weights[0].max()
    expect(page.locator(".timeline .readout")).to_contain_text(f"{strongest:.4f}")


def test_an_encoder_decoder_looks_at_its_source(page: Page) -> None:
    page.get_by_role("button", name="Generate").click()
    page.locator(".generate").get_by_label("Model").select_option("mini-t5")
    expect(page.locator(".timeline .readout")).to_contain_text("the model ended it itself")
    expect(page.locator(".generate-strips kqv-tokens")).to_have_count(2)
    page.get_by_role("button", name="Decoder").click()
    expect(page.locator(".generate-strips kqv-tokens >> visible=true")).to_have_count(1)


def slow_down(page: Page) -> None:
    """Let the page's network bring no more than 20 kB a second from now on."""
    conditions = {"offline": False, "latency": 0, "downloadThroughput": 20_000, "uploadThroughput": -1}
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", conditions)


def test_writing_can_be_stopped(page: Page) -> None:
    page.get_by_role("button", name="Generate").click()
    expect(page.locator(".timeline .readout")).to_contain_text("so many")
    page.get_by_label("New tokens").fill("240")
    slow_down(page)  # else all is written before anyone could stop it
    page.get_by_role("button", name="Write").click()
    expect(page.locator(".generate-map canvas")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Write")).to_be_visible()
    expect(page.locator(".notice")).to_have_count(0)


def test_what_cannot_be_written_is_said_plainly(page: Page) -> None:
    page.get_by_role("button", name="Generate").click()
    page.get_by_label("New tokens").fill("4000")
    page.get_by_role("button", name="Write").click()
    expect(page.locator(".generate .notice")).to_contain_text("max_new_tokens")


def test_the_strip_tells_how_the_service_is_doing(page: Page, choose: Callable[[str], None]) -> None:
    expect(page.locator(".live-line")).to_contain_text(re.compile(r"queue \d+ · running \d+"))
    choose("mini-bert")
    expect(page.locator(".live-line")).to_contain_text(re.compile(r"last answer [\d.]+ m?s \(model [\d.]+ m?s"))

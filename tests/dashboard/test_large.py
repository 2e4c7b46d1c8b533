"""Long texts: 512 tokens without a frame dropped while pointing, 4,096 without the page giving in."""

from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import tiny
from browsing import Watched, colors_of, pixels_of
from playwright.sync_api import BrowserContext, Page, expect
from serving import listening, make_app

import kqv

TOKENS = 4096
TEXT = "the cat sat on a mat and the dog ran to it "
WORDS = TEXT.split()

FRAME_MS = 16
"""For the page's own work when the pointer goes to another cell: the median stays under it."""

POINT = """async steps => {
  const stage = document.querySelector(".map-stage"), box = stage.getBoundingClientRect();
  const times = [];
  for (let step = 0; step < steps; step++) {
    const share = (step + 0.5) / steps;
    const place = {clientX: box.left + share * box.width, clientY: box.top + share * box.height, bubbles: true};
    let started;
    requestAnimationFrame(() => { started = performance.now(); });
    stage.dispatchEvent(new PointerEvent("pointermove", place)); // asks for the frame's work, between the two
    await new Promise(done => requestAnimationFrame(() => {
      document.body.getBoundingClientRect();
      times.push(performance.now() - started);
      done();
    }));
  }
  return times;
}"""
"""Points at cells down the diagonal; gives the milliseconds of script, style and layout that each took."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A random BERT of one layer and two heads, which reads 4,096 tokens."""
    directory = tmp_path_factory.mktemp("large")
    tiny.bert(directory, max_position_embeddings=TOKENS, num_hidden_layers=1, hidden_size=14, num_attention_heads=2)
    with listening(make_app(kqv.load(directory))) as url:
        yield url


@pytest.fixture
def page(context: BrowserContext, large: str) -> Page:
    return Watched(context.new_page(), large).look_out().open()


def read(page: Page, tokens: int) -> None:
    words = (TEXT * (tokens // 11 + 1)).split()[: tokens - 2]
    page.get_by_role("textbox", name="Text").fill(" ".join(words))
    page.get_by_role("button", name="Analyze").click()
    page.wait_for_function("side => document.querySelector('kqv-map canvas').width === side", arg=min(tokens, 512), timeout=30_000)


def weights_of(url: str, tokens: int, **crop: list[int]) -> np.ndarray:
    text = " ".join((TEXT * (tokens // 11 + 1)).split()[: tokens - 2])
    body = {"input": text, "layers": [0], "heads": [0], "diagnostics": "none", "outputs": [], **crop}
    [result] = httpx.post(f"{url}/v1/analyze", json=body, timeout=30).json()["results"]
    group = result["attention"]["encoder"]
    return np.array(group.get("weights") or group["pooled"])[0, 0]


def test_512_tokens_are_pointed_at_within_a_frame(page: Page) -> None:
    read(page, 512)
    cells = page.evaluate("document.querySelectorAll('.token').length")
    assert cells == 512
    times = page.evaluate(POINT, 60)
    assert np.median(times) < FRAME_MS


def test_4096_tokens_are_seen_in_tiles_and_closer_in_crops(page: Page, large: str) -> None:
    with page.expect_request(lambda asked: "/v1/analyze" in asked.url) as asking:
        read(page, TOKENS)
    assert asking.value.post_data_json["weights"] == "none", "thumbnails of all heads take longer than all else"
    expect(page.locator(".legend-note")).to_have_text("the measure; a text so long has its maps one by one")
    page.get_by_label("H0:").first.click()
    expect(page.locator(".map-zoom")).to_contain_text("each pixel is the largest of 8 × 8 weights")
    assert page.locator(".token").count() <= 512
    times = page.evaluate(POINT, 30)
    assert np.median(times) < FRAME_MS
    page.locator(".map-stage").dblclick(position={"x": 200, "y": 200})
    page.wait_for_timeout(300)
    page.locator(".map-stage").dblclick(position={"x": 200, "y": 200})
    expect(page.locator("kqv-map canvas")).to_have_attribute("width", "256", timeout=20_000)
    crop = view_of(page)
    weights = weights_of(large, TOKENS, **crop)
    assert (np.abs(pixels_of(page.locator("kqv-map canvas"))[..., :3].astype(int) - colors_of(weights)) <= 4).all()
    box = page.locator(".map-stage").bounding_box()
    assert box is not None
    page.locator(".map-stage").click(position={"x": 5, "y": 7.5 * box["height"] / 256})
    query = crop["queries"][0] + 7
    expect(page.locator(".row-scope")).to_contain_text(
        f"The strongest of all 4,096 keys for “{WORDS[(query - 1) % len(WORDS)]}” ({query})"
    )
    row = weights_of(large, TOKENS, queries=[query, query + 1])[0]
    expect(page.locator(".row-key .figure").first).to_have_text(f"{row.max():.4f}")
    take_apart(page, query)
    page.get_by_role("button", name="Further").click()
    page.get_by_role("button", name="Further").click()
    expect(page.locator("kqv-map canvas")).to_have_attribute("width", "512", timeout=20_000)


def view_of(page: Page) -> dict[str, list[int]]:
    """What is in view, as half-open crops."""
    rows, columns = page.locator(".map-zoom .figure").inner_text().split(";")[0].removeprefix("queries ").split(", keys ")
    ranges = {"queries": rows, "keys": columns}
    return {name: [int(text.split("–")[0]), int(text.split("–")[1]) + 1] for name, text in ranges.items()}


def test_a_map_is_dragged_and_zoomed_by_pointer_and_by_keys(page: Page, large: str) -> None:
    read(page, 300)
    page.get_by_label("H0:").first.click()
    page.wait_for_function("() => !document.querySelector('.map-waiting').textContent")
    stage = page.locator(".map-stage")
    box = stage.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -200)
    assert page.locator(".map-zoom .figure").inner_text() == "queries 0–299, keys 0–299"  # the wheel alone is the page's
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)  # where it is now
    page.keyboard.down("Control")
    page.mouse.wheel(0, -240)
    page.keyboard.up("Control")
    canvas = page.locator("kqv-map canvas")
    expect(canvas).to_have_attribute("width", "110")  # 300 / e
    before = view_of(page)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 - 100, box["y"] + 20, steps=5)
    page.mouse.up()
    after = view_of(page)
    moved = round(100 / box["width"] * 110)
    assert abs(after["keys"][0] - before["keys"][0] - moved) <= 1 and after["queries"][0] > before["queries"][0]
    assert (np.abs(pixels_of(canvas)[..., :3].astype(int) - colors_of(weights_of(large, 300, **after))) <= 4).all()
    stage.focus()
    for _ in range(40):
        page.keyboard.press("Shift+ArrowRight")
    assert view_of(page)["keys"][1] == 300  # arrows move on beyond the edge
    page.keyboard.press("+")
    expect(canvas).to_have_attribute("width", "32")
    page.keyboard.press("0")
    expect(canvas).to_have_attribute("width", "300")


def take_apart(page: Page, query: int) -> None:
    """Six steps of what is in view, whose softmax is over all keys."""
    page.get_by_role("button", name="Step by step").click()
    expect(page.locator(".workshop-note")).to_contain_text("Of 4,096 tokens, queries", timeout=20_000)
    expect(page.locator(".workshop-note")).to_contain_text("within")
    expect(page.locator(".step").nth(4).locator(".work")).to_contain_text("exp(")
    page.get_by_role("button", name="Look").click()


FIRST_PICTURE_MS = 1000

WAIT = """() => new Promise(done => {
  const look = () => {
    const canvas = document.querySelector("kqv-map canvas");
    if (canvas?.width !== 512) return requestAnimationFrame(look);
    const asked = performance.getEntriesByType("resource").filter(each => each.name.endsWith("/v1/analyze"));
    done(performance.now() - asked.at(-1).responseEnd);
  };
  look();
})"""


def test_the_picture_comes_soon_after_the_answer(page: Page) -> None:
    page.get_by_role("textbox", name="Text").fill(" ".join((TEXT * 50).split()[:510]))
    page.get_by_role("button", name="Analyze").click()
    assert page.evaluate(WAIT) < FIRST_PICTURE_MS

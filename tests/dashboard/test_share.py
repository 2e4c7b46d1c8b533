"""What one takes along: links, commands, pictures and numbers."""

import base64
import csv
import io
import json
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from browsing import Watched, colors_of
from PIL import Image
from playwright.sync_api import BrowserContext, Page, expect

CAT = "The cat sat on the mat."


def weights_of(server: str, layer: int = 0, head: int = 2) -> np.ndarray:
    body = {"model": "minilm", "input": CAT, "layers": [layer], "heads": [head], "diagnostics": "none", "outputs": []}
    [result] = httpx.post(f"{server}/v1/analyze", json=body).json()["results"]
    return np.array(result["attention"]["encoder"]["weights"])[0, 0]


def copied(page: Page, name: str, said: str = "copied") -> str:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name=name, exact=True).click()
    expect(page.locator(":is(.taking, .linking) [role=status]")).to_contain_text(said)
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def saved(page: Page, name: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name=name, exact=True).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_a_link_shows_another_reader_the_same(watched: Watched, context: BrowserContext) -> None:
    page = watched.open()
    page.get_by_label("Model").first.select_option("mini-gpt")
    page.get_by_role("textbox", name="Text").fill("one two three <b>four</b> ü")
    page.get_by_role("button", name="Analyze").click()
    expect(page.locator(".token").nth(1)).to_have_text("one")
    page.get_by_role("button", name="Induction", exact=True).click()
    page.get_by_label(re.compile("^L1 H3:")).click()
    page.get_by_role("button", name="log", exact=True).click()
    link = copied(page, "Link")
    other = Watched(context.new_page(), watched.url).look_out()
    other.page.goto(link)
    expect(other.page.get_by_role("heading", name="Head L1 H3")).to_be_visible()
    expect(other.page.get_by_role("textbox", name="Text")).to_have_value("one two three <b>four</b> ü")
    expect(other.page.get_by_role("button", name="Induction", exact=True)).to_have_attribute("aria-pressed", "true")
    expect(other.page.get_by_role("button", name="log", exact=True)).to_have_attribute("aria-pressed", "true")
    assert other.complaints == []
    assert not any("four" in url.split("#")[0] for url in other.requests)  # no server sees what a fragment holds


def test_a_cut_or_changed_link_says_so(watched: Watched) -> None:
    link = copied(watched.open(), "Link")
    middle = (len(link) + link.index("#")) // 2
    changed = link[:middle] + ("A" if link[middle] != "A" else "B") + link[middle + 1 :]
    for broken in (link[:-7], changed, link.split("=")[0] + "=%%%"):
        watched.page.goto("about:blank")
        watched.page.goto(broken)
        expect(watched.page.locator(".notice")).to_contain_text("This link was cut short or changed")
        expect(watched.page.locator("kqv-heads canvas").first).to_be_visible()  # with the example in its place


@pytest.fixture
def read(context: BrowserContext, server: str) -> Iterator[Callable[[str], Page]]:
    """Opens a link as somebody else would. That page is in front from then on: of others the browser draws a frame a second."""
    opened: list[Watched] = []

    def read(link: str) -> Page:
        opened.append(Watched(context.new_page(), server).look_out())
        opened[-1].page.goto(link)
        return opened[-1].page

    yield read
    assert [complaint for each in opened for complaint in each.complaints] == []


def turn(page: Page, name: str) -> None:
    page.get_by_role("navigation").get_by_role("button", name=name).click()


def test_a_link_keeps_both_sides_of_a_comparison(page: Page, read: Callable[[str], Page]) -> None:
    turn(page, "Compare")
    page.get_by_role("button", name="Dense and Linformer").click()
    side = page.get_by_label("Side B")
    side.get_by_label("Rank").fill("3")
    side.get_by_label("Text").fill("A dog sat on the mat.")
    side.get_by_role("combobox", name="Head").select_option("L1 H8")
    page.get_by_role("button", name="√", exact=True).click()
    page.get_by_label("Side A").locator(".map-stage").click(position={"x": 5, "y": 5})
    expect(page.locator(".side .readout")).to_contain_text("[CLS] → [CLS]")
    reader = read(copied(page, "Copy link"))
    side = reader.get_by_label("Side B")
    expect(side.get_by_label("Text")).to_have_value("A dog sat on the mat.")
    expect(side.get_by_label("Attention")).to_have_value("linformer")
    expect(side.get_by_label("Rank")).to_have_value("3")
    expect(side.get_by_role("combobox", name="Head").locator(":checked")).to_have_text("L1 H8")
    expect(reader.get_by_label("Side A").get_by_label("Attention")).to_have_value("dense")
    expect(reader.get_by_role("button", name="Dense and Linformer")).to_have_attribute("aria-pressed", "true")
    expect(reader.get_by_role("button", name="√", exact=True)).to_have_attribute("aria-pressed", "true")
    expect(reader.locator(".side .readout")).to_contain_text("[CLS] → [CLS]")


def test_a_link_keeps_what_is_written_and_the_step_one_looks_at(page: Page, read: Callable[[str], Page]) -> None:
    turn(page, "Generate")
    page.get_by_label("Begin with").fill("The dog")
    page.get_by_label("New tokens").fill("9")
    page.get_by_role("button", name="Write").click()
    expect(page.locator(".timeline .readout")).to_contain_text("so many")
    page.get_by_role("button", name="H2", exact=True).click()
    scrub = page.get_by_label("Step", exact=True)
    scrub.focus()
    scrub.press("Home")
    scrub.press("ArrowRight")
    said = page.locator(".timeline .readout").inner_text()
    reader = read(copied(page, "Copy link"))
    expect(reader.get_by_label("Step", exact=True)).to_have_attribute("max", "8")
    expect(reader.locator(".timeline .readout")).to_have_text(said)
    expect(reader.get_by_role("button", name="H2", exact=True)).to_have_attribute("aria-pressed", "true")


def test_a_link_keeps_numbers_of_one_s_own_unless_they_are_too_long(page: Page, read: Callable[[str], Page]) -> None:
    turn(page, "Step by step")
    page.get_by_role("button", name="My embeddings").click()
    page.locator(".own textarea").fill('{"x": [[1, 0], [0, 1], [1, 1]], "num_heads": 2, "seed": 3}')
    page.get_by_role("button", name="Compute").click()
    page.get_by_role("button", name="Head 1").click()
    scores = page.locator(".step").nth(1)
    scores.locator(".map-stage").click(position={"x": 5, "y": 5})
    said = scores.locator(".work").inner_text()
    reader = read(copied(page, "Copy link"))
    expect(reader.get_by_role("button", name="Head 1")).to_have_attribute("aria-pressed", "true")
    expect(reader.locator(".step").nth(1).locator(".work")).to_have_text(said)
    page.bring_to_front()
    page.locator(".own textarea").fill(json.dumps({"x": [[1.5] * 64] * 64, "num_heads": 2}))
    assert len(copied(page, "Copy link", "Link without your numbers")) < 2000


def test_a_link_made_by_hand_is_taken_field_by_field(server: str, read: Callable[[str], Page]) -> None:
    shared: dict[str, Any] = {
        "recipe": {"model": "mini-gpt", "text": "one two", "attention": "no object"},
        "page": "generate",
        "view": {"layer": -1, "head": 1.5, "scale": "steep", "locked": {"query": "0"}, "view": {"rows": [3, 1], "columns": None}},
        "state": {"model": "mini-gpt", "prompt": 7, "count": -3, "group": "encoder", "head": 99, "goal": "last"},
    }
    reader = read("about:blank")
    for page, state in {
        "generate": shared["state"],
        "compare": {"a": 1, "b": []},
        "steps": {"source": "constructor"},
        "x": 1,
    }.items():
        bytes_ = zlib.compress(json.dumps(shared | {"page": page, "state": state}).encode())
        reader.goto("about:blank")
        reader.goto(f"{server}/#look1={base64.urlsafe_b64encode(bytes_).decode().rstrip('=')}")
        expect(reader.locator("kqv-map canvas").first).to_be_visible()
        expect(reader.locator(".notice")).to_have_count(0)


def test_the_command_and_the_program_find_the_same_weights(page: Page, server: str) -> None:
    command = copied(page, "curl")
    done = subprocess.run(command, shell=True, capture_output=True, check=True, timeout=30)
    found = np.array(json.loads(done.stdout)["results"][0]["attention"]["encoder"]["weights"])[0, 0]
    assert (found == weights_of(server)).all()
    program = copied(page, "Python") + "\nprint(weights.tolist())\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=60)
    np.testing.assert_allclose(json.loads(done.stdout), weights_of(server), atol=1e-6)


def test_numbers_and_pictures_are_those_of_the_map(page: Page, server: str, tmp_path: Path) -> None:
    weights = weights_of(server)
    rows = list(csv.DictReader(io.StringIO(saved(page, "CSV", tmp_path).read_text())))
    np.testing.assert_allclose([float(row["weight"]) for row in rows], weights.ravel(), rtol=1e-4, atol=1e-9)
    assert (rows[10]["query_token"], rows[10]["key_token"]) == ("the", "the")
    picture = np.array(Image.open(saved(page, "PNG", tmp_path)).convert("RGB"))
    centres = 110 + 32 * np.arange(9) + 16
    assert (picture[np.ix_(centres, centres)] == colors_of(weights)).all()
    svg = saved(page, "SVG", tmp_path).read_text()
    fills = re.findall(r'fill="rgb\((\d+) (\d+) (\d+) / 1\.00\)"', svg)
    assert (np.array(fills, dtype=int).reshape(9, 9, 3) == colors_of(weights)).all()


def test_a_saved_page_stands_alone_and_runs_nothing(page: Page, context: BrowserContext, tmp_path: Path) -> None:
    page.get_by_role("textbox", name="Text").fill("<img src=x onerror=alert(1)> & </svg>")
    page.get_by_role("button", name="Analyze").click()
    expect(page.locator(".token", has_text="<").first).to_be_visible()
    path = saved(page, "HTML", tmp_path)
    alone = context.new_page()
    requests: list[str] = []
    alone.on("request", lambda request: requests.append(request.url))
    alone.goto(path.as_uri())
    expect(alone.locator("svg rect").first).to_be_visible()
    assert alone.locator("img, script").count() == 0
    assert requests == [path.as_uri()]

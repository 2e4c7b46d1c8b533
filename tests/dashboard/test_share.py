"""What one takes along: links, commands, pictures and numbers."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
from browsing import Watched, colors_of
from PIL import Image
from playwright.sync_api import BrowserContext, Page, expect

CAT = "The cat sat on the mat."


def weights_of(server: str, layer: int = 0, head: int = 2) -> np.ndarray:
    body = {"model": "minilm", "input": CAT, "layers": [layer], "heads": [head], "diagnostics": "none", "outputs": []}
    [result] = httpx.post(f"{server}/v1/analyze", json=body).json()["results"]
    return np.array(result["attention"]["encoder"]["weights"])[0, 0]


def copied(page: Page, name: str) -> str:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name=name, exact=True).click()
    expect(page.locator(".taking [role=status]")).to_contain_text("copied")
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

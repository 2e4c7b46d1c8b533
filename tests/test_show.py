"""Still pictures of an analysis: the colours are those of the weights, what a token says stays text, and nothing else is needed."""

import hashlib
import json
import re
import struct
import sys
import zlib
from base64 import b64decode, b64encode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch

import kqv
from kqv.drawing import levels, make_table, to_png
from kqv.looks import by_head, looks, pool, scatter, sharpest
from kqv.show import figure
from service.client import results


@pytest.fixture(scope="module")
def model() -> kqv.Model:
    return kqv.load("mini-bert")


@pytest.fixture(scope="module")
def analysis(model: kqv.Model) -> kqv.Analysis:
    [found] = model.analyze(["the cat sat"])
    return found


def read_png(data: bytes) -> np.ndarray[Any, Any]:
    """The colours of a PNG's pixels, [rows, columns, 3], read as the format says."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    parts, rest = {}, data[8:]
    while rest:
        length, kind = struct.unpack(">I4s", rest[:8])
        parts[kind], checksum = rest[8 : 8 + length], rest[8 + length : 12 + length]
        assert checksum == struct.pack(">I", zlib.crc32(kind + parts[kind]))
        rest = rest[12 + length :]
    columns, rows = struct.unpack(">II", parts[b"IHDR"][:8])
    lines = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(rows, columns + 1)
    assert not lines[:, 0].any()
    palette = np.frombuffer(parts[b"PLTE"], np.uint8).reshape(-1, 3)
    return palette[lines[:, 1:]]


def images(html: str) -> list[np.ndarray[Any, Any]]:
    return [read_png(b64decode(data)) for data in re.findall(r'href="data:image/png;base64,([^"]+)"', html)]


class Elements(HTMLParser):
    """Every element and all text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_colours_are_viridis() -> None:
    theirs = np.round(mpl.colormaps["viridis"](np.arange(256))[:, :3] * 255)
    assert np.abs(make_table().astype(int) - theirs).max() <= 2
    assert [*levels(np.array([-1.0, 0, 0.5, 1, 2, np.nan]), 0, 1)] == [0, 0, 128, 255, 255, 0]
    image = np.arange(15, dtype=np.uint8).reshape(3, 5) * 17
    assert np.array_equal(read_png(to_png(image)), make_table()[image])


def test_each_pixel_is_the_colour_of_its_weight(analysis: kqv.Analysis) -> None:
    [look] = looks(analysis, layer=2, head=3)
    [image] = images(figure(look))
    weights = analysis.attention["encoder"].weights[2, 3].numpy()
    assert np.array_equal(image, make_table()[levels(weights, 0, weights.max())])


def test_notebook_shows_the_heads_and_the_sharpest_of_them(analysis: kqv.Analysis) -> None:
    html = analysis._repr_html_()
    cells = re.findall(r'<td title="layer (\d), head (\d): entropy ([\d.]+)"', html)
    entropy = analysis.attention["encoder"].diagnostics["entropy"]
    assert [(int(layer), int(head)) for layer, head, _ in cells] == [(layer, head) for layer in range(4) for head in range(4)]
    for layer, head, told in cells:
        assert float(told) == pytest.approx(float(entropy[int(layer), int(head)]), abs=0.005)
    layer, head = sharpest(analysis.attention["encoder"])
    assert f"layer {layer}, head {head}: weights from 0" in html
    assert len(images(html)) == 1
    assert "→" in html  # each cell says which tokens it is of


def test_sharpest_head_rests_on_no_first_token() -> None:
    figures = {"max_weight": torch.tensor([[0.9, 0.6, 0.8]]), "first": torch.tensor([[0.9, 0.1, 0.0]])}
    assert sharpest(kqv.GroupAnalysis((0,), (0, 1, 2), diagnostics=figures)) == (0, 2)


EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;"


@pytest.mark.parametrize(("form", "scripts"), [("notebook", []), ("page", [{"type": "application/json"}, {}])])
def test_a_token_that_is_html_stays_text(analysis: kqv.Analysis, form: str, scripts: list[dict[str, str]]) -> None:
    tokens = (EVIL, *(analysis.tokens or ())[1:])
    evil = replace(analysis, tokens=tokens)
    elements = Elements(evil._repr_html_() if form == "notebook" else evil.page())
    assert {tag for tag, _ in elements.found}.isdisjoint({"img", "iframe", "object", "link", "base"})
    assert [attributes for tag, attributes in elements.found if tag == "script"] == scripts
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    assert EVIL in elements.text  # whole, where each cell says what it is


def test_page_needs_nothing_and_has_every_head(analysis: kqv.Analysis) -> None:
    page = analysis.page("previous")
    elements = Elements(page)
    for _, attributes in elements.found:
        for name in ("src", "href", "action", "data"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "url(" not in page and "@import" not in page
    assert ("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY}) in elements.found
    inputs = [attributes for tag, attributes in elements.found if tag == "input"]
    assert len(inputs) == 16 == len(images(page))
    assert sum("checked" in each for each in inputs) == 1
    labels = {attributes["for"] for tag, attributes in elements.found if tag == "label"}
    assert labels == {each["id"] for each in inputs}
    for name in labels:  # and a click on it shows its map
        assert f"#{name}:checked~.row .{name}{{display:block}}" in page and f'class="map {name}"' in page
    assert "heads by previous (0 dark to 1 bright)" in page


SCRIPT = (Path(kqv.__file__).parent / "show.js").read_bytes()
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{b64encode(hashlib.sha256(SCRIPT).digest()).decode()}'"
)


def test_page_has_every_measure_as_data(analysis: kqv.Analysis) -> None:
    [data] = re.findall(r'<script type="application/json">(.*?)</script>', analysis.page())
    measures = json.loads(data)
    found = analysis.attention["encoder"].diagnostics
    assert [*measures] == [name for name in found if name != "similarity"]
    for name, measure in measures.items():
        values = found[name].flatten().tolist()
        assert [told for told, _, _ in measure["cells"]] == ["–" if np.isnan(value) else f"{value:.2f}" for value in values]
        page = analysis.page(name)  # which has the same without its script
        assert all(f"background:{colour};color:{ink}" in page for _, colour, ink in measure["cells"])
        assert f'<figcaption style="margin-bottom:.5em">{measure["caption"]}<' in page


@pytest.mark.parametrize("weights", ["full", "top", "pooled", "none"])
def test_whatever_weights_there_are_are_shown(model: kqv.Model, weights: Any) -> None:
    [found] = model.analyze(["the cat sat"], weights=weights, top_k=99)
    shown = [image.shape for image in images(found._repr_html_())]
    assert shown == ([] if weights == "none" else [(7, 7, 3)])
    assert ("were not asked for" in found._repr_html_()) == (weights == "none")


def test_top_weights_and_pooled_ones_make_the_same_map(model: kqv.Model) -> None:
    maps = []
    for weights in ("full", "top", "pooled"):
        [found] = model.analyze(["the cat sat"], weights=weights, top_k=99, pool=99)
        maps.append(looks(found)[0].weights_of(1, 2))
    assert np.allclose(maps[0], maps[1], atol=1e-6) and np.allclose(maps[0], maps[2], atol=1e-6)


def test_groups_have_their_own_tokens() -> None:
    [found] = kqv.load("mini-t5").analyze([kqv.Input(text="abc", target="de")])
    encoder, decoder, cross = looks(found)
    assert (encoder.queries, encoder.keys) == (found.tokens, found.tokens)
    assert (decoder.queries, decoder.keys) == (found.target_tokens, found.target_tokens)
    assert (cross.queries, cross.keys) == (found.target_tokens, found.tokens)
    assert found.page().count("<section>") == 3
    [chosen] = looks(found, group="cross")
    assert chosen.name == "cross"


def test_what_can_be_measured_by_query_or_not_at_all(model: kqv.Model) -> None:
    [found] = model.analyze(["the cat sat"], per_query=True)
    mean = by_head(found.attention["encoder"].diagnostics["previous"])
    [plain] = model.analyze(["the cat sat"])
    assert np.allclose(mean, plain.attention["encoder"].diagnostics["previous"], atol=1e-6)
    [none] = model.analyze(["the cat sat"], diagnostics="none")
    assert "–" in none._repr_html_() and len(images(none._repr_html_())) == 1
    [by_vectors] = model.analyze([kqv.Input(embeddings=torch.randn(7, 128))])
    assert by_vectors.tokens is None
    assert "special" in by_vectors.page("special")  # undefined for all heads, and shown so
    assert len(images(by_vectors._repr_html_())) == 1


def test_long_maps_are_pooled_and_keep_their_largest_weights() -> None:
    weights = np.random.default_rng(0).random((5, 700)).astype(np.float32)
    small = pool(weights)
    assert small.shape == (5, 256)
    assert small.max() == weights.max() and np.array_equal(small[:, 0], weights[:, :2].max(1))
    assert np.array_equal(scatter(np.array([[2, 0]]), np.array([[0.7, 0.3]]), 3), np.array([[0.3, 0, 0.7]], np.float32))


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        ({"measure": "colour"}, "colour was not measured; there is: entropy"),
        ({"layer": 9}, "layer 9 is not in this result; there are: 0, 1, 2, 3"),
        ({"head": 9}, "head 9 is not in this result"),
        ({"group": "cross"}, "there is no attention to show of cross; there is: encoder"),
    ],
)
def test_what_is_not_there_is_told(analysis: kqv.Analysis, wanted: dict[str, Any], complaint: str) -> None:
    with pytest.raises(kqv.InputError, match=complaint):
        looks(analysis, **wanted)


def test_plot_has_the_same_numbers(analysis: kqv.Analysis) -> None:
    left, right = analysis.plot("previous", layer=1, head=0).axes[:2]
    found = analysis.attention["encoder"]
    assert np.array_equal(left.images[0].get_array(), found.diagnostics["previous"])
    assert np.array_equal(right.images[0].get_array(), found.weights[1, 0])
    assert [label.get_text() for label in right.get_yticklabels()] == [*(analysis.tokens or ())]


def test_plot_says_what_is_missing(analysis: kqv.Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(kqv.InputError, match=r"pip install 'kqv\[plot\]'"):
        analysis.plot()


def test_clients_results_look_the_same(analysis: kqv.Analysis) -> None:
    found = analysis.attention["encoder"]
    group = results.GroupAnalysis(
        found.layers,
        found.heads,
        found.weights.numpy(),
        diagnostics={name: each.numpy() for name, each in found.diagnostics.items()},
    )
    same = results.Analysis(analysis.tokens, analysis.token_ids, {"encoder": group})
    assert same._repr_html_() == analysis._repr_html_()
    assert same.page() == analysis.page()
    usage = results.Usage(1, 11)
    assert results.Answer((same,), "mini-bert", usage, None, None)._repr_html_() == analysis._repr_html_()
    assert results.Answer((1.0,), "mini-bert", usage, None, None)._repr_html_() is None


def test_half_precision_is_shown_too(analysis: kqv.Analysis) -> None:
    found = analysis.attention["encoder"]
    half = replace(found, weights=found.weights.bfloat16())
    assert len(images(replace(analysis, attention={"encoder": half})._repr_html_())) == 1


def test_page_is_written_by_the_command_line(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from service.cli.commands import app

    arguments = ["analyze", "the cat sat", "--model", "mini-bert", "--html"]
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "out.html")])
    assert (done.exit_code, done.stdout) == (0, "")
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and len(images(page)) == 16
    refused = CliRunner().invoke(app, [*arguments, str(tmp_path / "none" / "out.html")])
    assert refused.exit_code == 1 and "can't be written" in refused.stderr

"""What goes wrong, and who else is to see the page: other themes, assistive technology."""

import json

import pytest
from browsing import Watched
from playwright.sync_api import BrowserContext, Page, Route, expect
from tools import axe

PAGES = ("Look", "Compare", "Step by step", "Generate")
PROBLEM = {"type": "about:blank", "title": "Overloaded", "detail": "the queue is full; come back", "request_id": "abc"}


def look(page: Page, text: str = "A dog.") -> None:
    page.get_by_role("textbox", name="Text").fill(text)
    page.get_by_role("button", name="Analyze").click()


@pytest.mark.parametrize(("status", "headers"), [(429, {"Retry-After": "7"}), (503, {"Retry-After": "7"})])
def test_a_full_queue_is_told_of_and_tried_again(page: Page, status: int, headers: dict[str, str]) -> None:
    def refuse(route: Route) -> None:
        body = json.dumps(PROBLEM | {"status": status})
        route.fulfill(status=status, headers=headers | {"Content-Type": "application/problem+json"}, body=body)

    page.route("**/v1/analyze", refuse)
    look(page)
    notice = page.locator(".notice")
    expect(notice).to_contain_text("the queue is full; come back")
    expect(notice).to_contain_text("The server asks for 7 s of patience.")
    page.unroute("**/v1/analyze")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".token")).to_have_count(5)
    expect(notice).to_have_count(0)


def test_a_server_that_is_still_loading_is_asked_again(context: BrowserContext, server: str) -> None:
    page = context.new_page()
    body = json.dumps(PROBLEM | {"status": 503, "title": "Not ready", "detail": "the models are loading"})
    page.route("**/v1/models", lambda route: route.fulfill(status=503, headers={"Retry-After": "2"}, body=body))
    page.goto(server)
    expect(page.locator(".notice")).to_contain_text("the models are loading")
    page.unroute("**/v1/models")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("kqv-heads .heads-cell")).to_have_count(72)


def test_a_server_that_went_away_is_told_of(page: Page) -> None:
    page.route("**/v1/**", lambda route: route.abort())
    look(page)
    expect(page.locator(".notice")).to_contain_text("Nothing answers at this address")


def test_a_slow_answer_shows_progress_and_can_be_cancelled(page: Page) -> None:
    held: list[Route] = []
    page.route("**/v1/analyze", lambda route: held.append(route))
    look(page)
    expect(page.locator(".progress")).to_contain_text("Working for")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".progress")).to_be_hidden()
    expect(page.locator(".notice")).to_have_count(0)
    expect(page.locator(".token")).to_have_count(9)  # what was there is there still
    for route in held:
        route.abort()


def test_a_text_over_the_context_gets_the_service_s_own_words(page: Page) -> None:
    look(page, "word " * 600)
    expect(page.locator(".notice")).to_contain_text("512")


def test_a_text_without_tokens_strings_is_shown_by_ids(page: Page) -> None:
    def strip(route: Route) -> None:
        answer = route.fetch()
        told = answer.json()
        del told["results"][0]["tokens"]
        route.fulfill(response=answer, body=json.dumps(told))

    page.route("**/v1/analyze", strip)
    page.route("**/v1/tokenize", lambda route: route.fulfill(status=422, body="{}"))
    look(page)
    expect(page.locator(".token").first).to_have_text("#101")


def accuse(page: Page) -> list[str]:
    """What axe-core finds; it isn't to load style sheets once more, which it would put where our policy lets none be."""
    page.evaluate(axe())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations'], preload: false})")
    return [f"{each['id']}: {[node['html'] for node in each['nodes']][:3]}" for each in found["violations"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(watched: Watched, scheme: str) -> None:
    watched.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page = watched.open()
    for name in PAGES:
        page.get_by_role("navigation").get_by_role("button", name=name).click()
        page.wait_for_timeout(500)
        assert accuse(page) == []


def test_dark_is_dark_and_the_map_the_same(watched: Watched) -> None:
    watched.page.emulate_media(color_scheme="dark")
    page = watched.open()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 18, 21)"


def test_forced_colours_keep_the_data_s(context: BrowserContext, watched: Watched) -> None:
    watched.page.emulate_media(forced_colors="active")
    page = watched.open()
    page.get_by_role("button", name="Previous token").click()
    color = page.locator("kqv-heads .is-open").evaluate("cell => getComputedStyle(cell).backgroundColor")
    assert color == "rgb(253, 231, 37)"


def test_a_theme_is_chosen_and_kept_in_this_browser_alone(watched: Watched) -> None:
    page = watched.open()
    dark = page.get_by_role("group", name="Theme").get_by_role("button", name="Dark")
    dark.focus()
    page.keyboard.press("Enter")
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(paper) == "rgb(18, 18, 21)"
    page.route("**/main.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
    page.reload()
    assert page.evaluate(paper) == "rgb(18, 18, 21)"  # and not the system's until a module has run
    page.unroute("**/main.js")
    page.reload()
    expect(dark).to_have_attribute("aria-pressed", "true")
    page.get_by_role("group", name="Theme").get_by_role("button", name="System").click()
    assert page.evaluate(paper) == "rgb(250, 249, 247)"
    assert page.evaluate("localStorage.length") == 0 and page.context.cookies() == []


def asked_for_metrics(watched: Watched) -> int:
    return sum(url.endswith("/metrics") for url in watched.requests)


def test_the_strip_leaves_the_service_alone_while_nobody_is_there(watched: Watched) -> None:
    watched.page.clock.install()
    page = watched.open()
    page.clock.run_for(20_000)
    assert asked_for_metrics(watched) >= 3
    page.clock.run_for(60_000)
    asleep = asked_for_metrics(watched)
    page.clock.run_for(60_000)
    assert asked_for_metrics(watched) == asleep
    page.mouse.move(200, 200)
    page.clock.run_for(1000)
    assert asked_for_metrics(watched) == asleep + 1


def test_reduced_motion_moves_nothing(watched: Watched) -> None:
    watched.page.emulate_media(reduced_motion="reduce")
    page = watched.open()
    moving = "[...document.querySelectorAll('*')].filter(each => getComputedStyle(each).animationName !== 'none').length"
    assert page.evaluate(moving) == 0
    assert page.locator(".choice").first.evaluate("each => getComputedStyle(each).transitionDuration") == "0s"


@pytest.mark.parametrize("width", [360, 800, 1600])
def test_no_width_makes_the_page_scroll_sideways(watched: Watched, width: int) -> None:
    watched.page.set_viewport_size({"width": width, "height": 900})
    page = watched.open()
    for name in PAGES:
        page.get_by_role("navigation").get_by_role("button", name=name).click()
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

"""The page in a real Chromium over a real service: what a person does, and what stands there."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from isdh import manifest
from isdh.artifacts import Workspace
from isdh.serve.options import Options
from tests.serve.conftest import BITS, Served, served

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("ISDH_CHROMIUM") or shutil.which("chromium") or shutil.which("chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install it or set ISDH_CHROMIUM"),
]
TOKEN = "a secret of some length"
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--no-proxy-server"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, standing: Served) -> Iterator[Any]:
    """A page at the standing service; it must fault nowhere and ask nobody else."""
    context = browser.new_context(viewport=DESKTOP, base_url=standing.url)
    yield from watched(context, standing.url)


def watched(context: Any, url: str) -> Iterator[Any]:
    page = context.new_page()
    page.set_default_timeout(20_000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda told: faults.append(told.text) if told.type == "error" else None)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    yield page
    context.close()
    own = (url, "blob:", "data:")
    assert [each for each in asked if not each.startswith(own)] == []
    assert [each for each in faults if "status of 4" not in each] == []


@pytest.fixture(scope="module")
def frame(promoted_once: Path) -> Any:
    return manifest.read(Workspace(promoted_once).manifest("digits"))


def ids(page: Any, side: int = 0) -> list[str]:
    """The ids of the neighbours that are shown."""
    article = page.locator(".side").nth(side)
    found: list[str] = article.locator("li[data-id]").evaluate_all(
        "all => all.map(i => i.dataset.id)"
    )
    return found


def found(page: Any, sides: int = 1) -> None:
    """Wait for an answer."""
    page.wait_for_function(
        "n => document.querySelectorAll('.side').length === n"
        " && !document.getElementById('answers').hasAttribute('aria-busy')",
        arg=sides,
    )


def view(page: Any) -> dict[str, list[str]]:
    """What the address says."""
    return parse_qs(page.url.partition("#")[2])


def open_at(page: Any, address: str = "", sides: int = 1) -> None:
    page.goto(f"/{address}")
    page.wait_for_selector("#pictures img")
    if address:
        found(page, sides)


def test_a_picture_of_the_collection_is_clicked(page, standing):
    open_at(page)
    page.locator("#pictures button").nth(3).click()
    found(page)
    image = view(page)["id"][0]
    answer = standing.get("/api/search/image", id=image, k=20)
    assert ids(page) == [each["id"] for each in answer["neighbours"]]
    assert page.locator("#asked-title").evaluate("node => node === document.activeElement")
    assert "20 pictures of 100" in page.text_content("#told")
    assert page.locator("#pictures li[aria-current=true]").count() == 1


def test_shared_labels_and_differing_bits_are_marked(page, standing, frame):
    image = frame["image"][frame["split"] == "query"].iloc[2]
    open_at(page, f"#id={image}")
    answer = standing.get("/api/search/image", id=image)
    items = page.locator(".side li[data-id]")
    for place in (0, 7, 19):
        each, item = answer["neighbours"][place], items.nth(place)
        assert sorted(item.locator("mark").all_text_contents()) == sorted(each["shared"])
        assert ("relevant" in (item.get_attribute("class") or "")) == bool(each["shared"])
        told = item.locator("svg").get_attribute("aria-label").removeprefix("bits that differ: ")
        differing = [int(bit) for bit in told.split(", ")] if told != "none" else []
        codes = [
            int.from_bytes(bytes.fromhex(c), "little")
            for c in (each["code"], answer["asked"]["code"])
        ]
        assert differing == [bit for bit in range(BITS) if (codes[0] ^ codes[1]) >> bit & 1]
        assert len(differing) == each["distance"]


def test_ties_are_told(page, standing, frame):
    image = frame["image"][frame["split"] == "query"].iloc[2]
    open_at(page, f"#id={image}&k=30")
    answer = standing.get("/api/search/image", id=image, k=30)
    firsts = page.locator(".side li.first")
    assert firsts.count() == len(answer["ties"])
    for place, tie in enumerate(answer["ties"]):
        text = firsts.nth(place).locator(".far").text_content()
        assert text.startswith(f"{tie['distance']} bit")
        if tie["all"] > 1:
            told = (
                f"{tie['all']} tie"
                if tie["all"] == tie["shown"]
                else f"{tie['shown']} of {tie['all']}"
            )
            assert told in text


def test_more_like_this_and_back(page, frame):
    image = frame["image"].iloc[0]
    open_at(page, f"#id={image}")
    first, nearest = ids(page), ids(page)[0]
    page.locator(".side .more").first.click()
    page.wait_for_function(
        "id => document.querySelector('#asked-body strong').textContent === id", arg=nearest
    )
    assert view(page)["id"] == [nearest]
    page.go_back()
    page.wait_for_function(
        "id => document.querySelector('#asked-body strong').textContent === id", arg=image
    )
    found(page)
    assert ids(page) == first


def test_filters_ask_anew_and_stand_in_the_link(page, standing, browser, frame):
    image = frame["image"][frame["split"] == "query"].iloc[0]
    label = manifest.labels_of(frame)[0]
    open_at(page, f"#id={image}")
    page.fill("#k", "5")
    page.locator("#k").blur()
    page.locator("#radius").focus()
    for _ in range(BITS - 6):
        page.keyboard.press("ArrowLeft")
    page.locator("#filter summary").click()
    page.check(f"#labels input[value='{label}']")
    page.wait_for_url("**label=*")
    found(page)
    wanted = {"k": 5, "radius": 6, "label": label}
    answer = standing.get("/api/search/image", id=image, **wanted)
    page.wait_for_function("n => document.querySelectorAll('.side li').length > 0", arg=0)
    expected = [each["id"] for each in answer["neighbours"]]
    page.wait_for_function(
        "n => document.querySelectorAll('.side li[data-id]').length === n", arg=len(expected)
    )
    assert ids(page) == expected
    assert view(page) == {"id": [image], "k": ["5"], "radius": ["6"], "label": [label]}
    context = browser.new_context(viewport=DESKTOP, base_url=standing.url)
    for other in watched(context, standing.url):  # the link in another browser
        open_at(other, f"#{page.url.partition('#')[2]}")
        assert ids(other) == expected
        assert other.input_value("#k") == "5"
        assert other.text_content("#radius-told") == "6 bits"
        assert other.is_checked(f"#labels input[value='{label}']")


def test_a_picture_is_chosen_and_its_link_holds_the_code(page, standing, promoted_once, frame):
    path = promoted_once / "raw/digits" / frame["path"].iloc[0]
    open_at(page)
    page.set_input_files("#file", path)
    found(page)
    code = standing.post("/api/encode", path.read_bytes())["code"]
    assert view(page)["code"] == [code]
    assert view(page)["v"] == ["1"]
    assert ids(page) == [e["id"] for e in standing.get("/api/search/code", code=code)["neighbours"]]
    assert page.locator("#asked-body img").get_attribute("src").startswith("blob:")
    page.reload()
    page.wait_for_selector("#pictures img")
    found(page)
    assert "not kept" in page.text_content("#asked-body")


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(page, standing, promoted_once, frame, way):
    data = (promoted_once / "raw/digits" / frame["path"].iloc[1]).read_bytes()
    open_at(page)
    page.evaluate(
        """([way, data]) => {
          const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
          const held = new DataTransfer();
          held.items.add(new File([bytes], "some.png", { type: "image/png" }));
          const more = { bubbles: true, cancelable: true };
          document.body.dispatchEvent(way === "drop"
            ? new DragEvent("drop", { dataTransfer: held, ...more })
            : new ClipboardEvent("paste", { clipboardData: held, ...more }));
        }""",
        [way, base64.b64encode(data).decode()],
    )
    found(page)
    assert view(page)["code"] == [standing.post("/api/encode", data)["code"]]
    assert page.text_content("#asked-body strong") == "some.png"


def test_champion_and_challenger_stand_side_by_side(page, standing, promoted_once, frame):
    image = frame["image"].iloc[0]
    open_at(page, f"#id={image}&k=7")
    page.check("#compare")
    found(page, 2)
    for side, alias in enumerate(("champion", "challenger")):
        answer = standing.get("/api/search/image", id=image, k=7, alias=alias)
        assert ids(page, side) == [each["id"] for each in answer["neighbours"]]
    assert "version 2" in page.locator(".side").nth(1).locator("header").text_content()
    boxes = [page.locator(".side").nth(side).bounding_box() for side in range(2)]
    assert boxes[0]["y"] == boxes[1]["y"]
    path = promoted_once / "raw/digits" / frame["path"].iloc[0]
    page.set_input_files("#file", path)  # each by the code that it makes itself
    page.wait_for_url("**other=*")
    found(page, 2)
    own = [
        standing.post("/api/encode", path.read_bytes(), alias=a)["code"]
        for a in ("champion", "challenger")
    ]
    assert [view(page)["code"][0], view(page)["other"][0]] == own


def test_a_code_of_another_version_is_told(page):
    open_at(page, "#code=0000&v=99")
    assert "made with version 99" in page.text_content("#told")


def test_what_is_no_picture_is_told(page, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    open_at(page)
    page.set_input_files("#file", tmp_path / "notes.txt")
    page.wait_for_selector("#told.fault")
    assert "no image" in page.text_content("#told")
    page.goto("/#id=unknown")
    page.reload()
    page.wait_for_selector("#told.fault")
    assert "no picture of the collection" in page.text_content("#told")


def test_ids_and_labels_are_never_markup(page, standing):
    collection = standing.service.champion.collection
    before = collection.images[0]
    collection.images[0] = evil = "<img src=x onerror=alert(1)>"
    collection.rows[evil] = 0
    try:
        open_at(page, f"#id={evil.replace('=', '%3D')}")
        assert page.text_content("#asked-body strong") == evil
    finally:
        collection.images[0] = before
        del collection.rows[evil]


def test_keys_alone_will_do(page):
    open_at(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    seen = []
    for _ in range(14):
        page.keyboard.press("Tab")
        node = "document.activeElement"
        seen.append(page.evaluate(f"{node}.id || {node}.className || {node}.tagName"))
        if seen[-1] == "more":
            break
    assert {"file", "to-collection", "k", "radius", "compare", "split", "more"} <= set(seen)
    page.keyboard.press("Enter")
    found(page)
    assert page.evaluate("document.activeElement.id") == "asked-title"


def test_everything_that_is_used_has_a_name(page, frame):
    open_at(page, f"#id={frame['image'].iloc[0]}&compare=1", sides=2)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, a, [role=img]")].filter(
             (node) => !(node.getAttribute("aria-label") || node.textContent.trim()
               || node.labels?.length)).map((node) => node.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("#told").get_attribute("aria-live") == "polite"
    assert page.locator("html").get_attribute("lang") == "en"
    assert [page.locator(tag).count() for tag in ("h1", "main")] == [1, 1]
    unlabelled = page.locator("img:not([alt])").count()
    assert unlabelled == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_nothing_is_wider_than_the_screen_and_text_stands_out(
    browser, standing, frame, size, scheme
):
    context = browser.new_context(viewport=size, color_scheme=scheme, base_url=standing.url)
    for page in watched(context, standing.url):
        open_at(page, f"#id={frame['image'].iloc[5]}&compare=1", sides=2)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        for selector in ("body", "#served", ".far", ".far small", ".tags li", "mark", ".button"):
            node = page.locator(selector).first
            if node.count():
                assert contrast(page, node) >= 4.5, selector


def contrast(page: Any, node: Any) -> float:
    """WCAG's ratio of an element's colour to what lies behind it."""
    ink, ground = node.evaluate(
        """node => {
          const parse = (text) => text.match(/[\\d.]+/g).map(Number);
          let behind = node;
          while (behind && (parse(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0)
            behind = behind.parentElement;
          return [parse(getComputedStyle(node).color),
                  parse(getComputedStyle(behind ?? document.body).backgroundColor)];
        }"""
    )

    def luminance(colour: list[float]) -> float:
        parts = [value / 255 for value in colour[:3]]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(ink), luminance(ground)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_a_token_is_asked_for_once(browser, promoted_once):
    options = Options(port=0, every=3600, token=TOKEN)
    with served(Workspace(promoted_once), options) as service:
        context = browser.new_context(viewport=DESKTOP, base_url=service.url)
        for page in watched(context, service.url):
            page.goto("/")
            page.fill("#token", "not the token")
            page.keyboard.press("Enter")
            page.wait_for_function("document.getElementById('door-told').textContent")
            page.fill("#token", TOKEN)
            page.keyboard.press("Enter")
            page.wait_for_function(
                "() => document.querySelector('#pictures img')?.naturalWidth > 0"
            )
            page.reload()
            page.wait_for_selector("#pictures img")
            assert not page.locator("#door").evaluate("door => door.open")

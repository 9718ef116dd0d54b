"""Pages that do not work where people read them: sorting, filtering, comparing, by mouse and by keyboard."""

import re
from dataclasses import replace

import numpy as np
import pytest

from tests.coded import small_grid
from tests.report import sites
from tests.report.sites import EVIL, SPLIT

FIRST = "section.months >> nth=0"


def names(page, section=FIRST):
    """First cells of the rows that are seen, in their order."""
    rows = page.locator(section).locator("tbody tr:not([hidden])")
    return [re.sub(r"\s+", " ", text).strip() for text in rows.locator("th").all_inner_texts()]


RANKED = ["noise ceiling", "best", "place 1: a team", re.sub(r"\s+", " ", EVIL).strip(), "third", "climatology"]
BY_SCORE = [*RANKED, "unscored"]


def test_every_page_opens_every_link_leads_somewhere_and_every_image_is_seen(visit, site):
    todo, seen = [(site / "index.html").as_uri()], set()
    page = visit(site / "index.html")
    while todo:
        address = todo.pop()
        seen.add(address)
        page.goto(address)
        images = page.evaluate("[...document.images].map(i => [i.src, i.complete && i.naturalWidth > 0])")
        assert all(shown for _, shown in images), images
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), address
        assert page.locator("h1").count() == 1
        for link in page.evaluate("[...document.links].map(a => a.href)"):
            target, _, fragment = link.partition("#")
            assert link.startswith(site.as_uri()), link
            if fragment and target == address:
                assert page.locator(f"#{fragment}").count() == 1, link
            if target not in seen and target not in todo:
                todo.append(target)
    written = {p.as_uri() for p in site.rglob("*.html")}
    assert seen == written


def test_headings_sort_by_mouse_and_keyboard_and_say_so(visit, site):
    page = visit(site / "index.html")
    assert names(page) == BY_SCORE
    table = page.locator(FIRST).locator("table")
    score = table.get_by_role("button", name="score", exact=True)
    score.click()
    # What has no score stands last in either direction.
    assert names(page) == [*reversed(RANKED), "unscored"]
    assert table.locator("th[aria-sort=descending]").inner_text().strip() == "score"
    assert page.locator("#shown").inner_text() == "sorted by score, descending"
    entry = table.get_by_role("button", name="entry", exact=True)
    entry.focus()
    page.keyboard.press("Enter")
    assert names(page) == sorted(BY_SCORE, key=str.lower)
    assert table.locator("th[aria-sort=ascending]").inner_text().strip() == "entry"
    assert table.locator("th[aria-sort=descending]").count() == 0
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert names(page) == BY_SCORE
    page.get_by_role("button", name="#").first.click()
    assert names(page)[:4] == RANKED[1:5]
    # The other table is as it was.
    assert names(page, "section.months >> nth=1") == ["other"]


def test_rows_are_filtered_by_months_and_words_and_lines_stay(visit, site):
    page = visit(site / "index.html")
    page.get_by_label("Text").fill("TEAM report")
    assert names(page) == ["noise ceiling", "place 1: a team", "climatology"]
    assert page.locator("section.months:visible").count() == 1
    assert page.locator("#shown").inner_text() == "1 row shown"
    page.get_by_label("Text").fill("nobody")
    assert page.locator("section.months:visible").count() == 0
    assert page.locator("#shown").inner_text() == "0 rows shown"
    page.get_by_label("Text").fill("")
    assert page.locator("#shown").inner_text() == "6 rows shown"
    page.get_by_label("Months").select_option(label=SPLIT)
    assert page.locator("section.months:visible h2").all_inner_texts() == [SPLIT]
    page.get_by_label("Text").press("Enter")
    assert page.url.endswith("index.html")


def test_folded_tables_open_when_they_are_asked_for(visit, tmp_path):
    whole = sites.site(tmp_path)
    elsewhere = sites.row("a faraway team", 0.5, "published", split="cse151b 48x72 k360 test: elsewhere")
    folder = sites.write(replace(whole, rows=[*whole.rows, elsewhere]), tmp_path / "site")
    page = visit(folder / "index.html")
    row = page.get_by_role("rowheader", name="a faraway team")
    assert row.is_hidden()
    page.get_by_label("Months").select_option(label="cse151b 48x72 k360 test: elsewhere")
    assert row.is_visible()
    page = visit(folder / "index.html")
    page.get_by_label("Text").fill("third")
    assert page.locator("details.others").is_hidden()
    page.get_by_label("Text").fill("faraway")
    assert page.get_by_role("rowheader", name="a faraway team").is_visible()


def pixel(page, canvas, x, y):
    """Red, green and blue of a place of a canvas, as shares of its width and height."""
    script = """([canvas, x, y]) => {
        const copy = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
        copy.drawImage(canvas, -Math.floor(x * canvas.width), -Math.floor(y * canvas.height));
        return [...copy.getImageData(0, 0, 1, 1).data].slice(0, 3);
    }"""
    return page.evaluate(script, [canvas.element_handle(), x, y])


def test_two_entries_are_compared_with_the_difference_of_their_errors(visit, site):
    page = visit(site / "index.html")
    page.get_by_role("link", name="best").click()
    page.get_by_role("link", name="compare with another entry").click()
    page.locator("#maps section").nth(3).wait_for()
    assert page.locator("#a option:checked").inner_text().startswith("best (")
    # Of the others, one of the same months.
    assert page.locator("#b option:checked").inner_text().startswith("<script>")
    rows = [r.split("\t") for r in page.locator("#numbers tbody tr").all_inner_texts()]
    assert rows[0][:3] == ["A: best", "0.5000", "0.500"]
    assert rows[2][:3] == ["B less A", "+0.2500", "+0.250"]
    canvases = page.locator("#maps section >> nth=0 >> .compared canvas")
    assert canvases.count() == 3
    # The first quantity of A is (cell - 11.5) * 0.5 and of B times 0.75, in a scale to 1: the south-west is blue.
    blue, red = [5, 48, 97], [103, 0, 31]
    assert pixel(page, canvases.nth(0), 0.02, 0.98) == blue
    assert pixel(page, canvases.nth(0), 0.98, 0.02) == red
    assert pixel(page, canvases.nth(2), 0.02, 0.98) == blue
    label = canvases.nth(2).get_attribute("aria-label")
    assert "B less A" in label
    less = small_grid().mean(np.abs(0.25 * (np.arange(24.0) - 11.5)).reshape(4, 6))
    assert float(label.rpartition(" ")[2]) == pytest.approx(less, rel=0.02)
    canvases.nth(0).focus()
    page.keyboard.press("ArrowUp")
    assert page.locator("#reading").inner_text().startswith("67.5°N 210.0°E: A +")
    assert page.locator("#reading").get_attribute("aria-live") == "polite"
    assert canvases.nth(0).get_attribute("role") == "application"
    page.keyboard.press("ArrowRight")
    assert "270.0°E" in page.locator("#reading").inner_text()
    canvases.nth(1).hover()
    assert page.locator("#reading").get_attribute("aria-live") == "off"
    page.get_by_role("button", name="Swap").click()
    page.locator("#numbers tbody tr th", has_text="B: best").wait_for()
    rows = [r.split("\t") for r in page.locator("#numbers tbody tr").all_inner_texts()]
    assert rows[2][1] == "\N{MINUS SIGN}0.2500"
    assert "b=best-" in page.url


def test_errors_of_other_months_are_not_subtracted(visit, site):
    page = visit(site / "compare.html")
    page.locator("#maps section").nth(3).wait_for()
    other = page.locator("#b option", has_text="other (").get_attribute("value")
    page.get_by_label("B", exact=True).select_option(other)
    page.locator("#status", has_text="no difference is drawn").wait_for()
    assert page.locator("#maps section >> nth=0 >> .compared canvas").count() == 2
    assert page.locator("#numbers tbody tr").count() == 2
    reopened = visit(site / "compare.html", page.evaluate("location.hash"))
    reopened.locator("#maps section").nth(3).wait_for()
    assert reopened.locator("#b option:checked").inner_text().startswith("other (")


def test_pages_are_read_in_the_dark_on_a_phone_on_paper_and_by_keyboard(visit, site):
    page = visit(site / "index.html")
    light = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left >= 0")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(18, 22, 27)")
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.emulate_media(media="print")
    assert page.locator("form.controls").is_hidden()
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == light
    assert names(page) == BY_SCORE

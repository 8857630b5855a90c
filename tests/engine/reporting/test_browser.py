"""The page in a browser, Debian's Chromium: every figure is drawn, nothing is loaded, nothing is wider than it may."""

from pathlib import Path

import pytest

import engine
from engine.reporting import looks

sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("plotly", reason="the extra `report` is not installed")

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--disable-quic",
]  # fmt: skip
# Of each figure: how many shapes it has drawn that data make, and whether they are within its frame.
DRAWN = """() => [...document.querySelectorAll('.plot')].map((plot) => ({
  title: plot.getAttribute('aria-label'),
  shapes: plot.querySelectorAll('svg .points path, svg .point path, svg .lines path, svg path.js-line').length,
  wide: plot.scrollWidth - plot.clientWidth,
}))"""

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed")


@pytest.fixture(scope="module")
def browser():
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_file(small_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looks, "ledger_of", lambda cache: folder / "looks.jsonl")
        return engine.report(small_run, folder / "report.html", small_run)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")])
def test_every_figure_is_drawn(browser, page_file, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    page.wait_for_function("document.documentElement.dataset.drawn !== undefined", timeout=120_000)
    figures = page.evaluate(DRAWN)
    assert len(figures) >= 15
    assert [figure for figure in figures if not figure["shapes"] or figure["wide"] > 0] == []
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    text, ground = page.evaluate(
        """() => [getComputedStyle(document.querySelector('.plot svg text')).fill,
                  getComputedStyle(document.body).backgroundColor]"""
    )
    light = [sum(int(part) for part in colour[4:-1].split(",")) > 380 for colour in (text, ground)]
    assert light == ([True, False] if scheme == "dark" else [False, True])
    context.close()


def test_it_prints_in_light_colours_within_the_page(browser, page_file):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="dark")
    page = context.new_page()
    page.goto(page_file.as_uri())
    page.wait_for_function("document.documentElement.dataset.drawn !== undefined", timeout=120_000)
    page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function("document.querySelector('.plot').layout.width === 640")
    assert page.evaluate("getComputedStyle(document.querySelector('.plot svg text')).fill") == "rgb(67, 75, 86)"
    page.evaluate("() => dispatchEvent(new Event('afterprint'))")
    page.wait_for_function("document.querySelector('.plot').layout.width !== 640")
    context.close()

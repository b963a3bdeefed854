"""The built site in a browser: pages load without complaints or network, and its moving parts move.

Run after `make docs`; skipped where the site, Chromium or playwright is missing, which in CI is a failure.
Screenshots of every page are left in build/screenshots.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import string
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "site"
SCREENSHOTS = ROOT / "build" / "screenshots"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html")) or ["index.html"]
VIEWPORTS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
}
MOBILE_MENU = 1220
"""Pixels below which the theme hides its navigation."""


def missing() -> str | None:
    """Why the site cannot be looked at here."""
    if not (SITE / "index.html").exists():
        return "the site is not built: make docs"
    if CHROMIUM is None:
        return "no Chromium: apt-get install chromium"
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed: pip install playwright"
    return None


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser; a skip where there is none, or no site, a failure in CI."""
    if reason := missing():
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # Chromium's own sandbox needs privileges that containers do not give
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    """Connections that may wait: with the default of 5, those that a browser opens at once are dropped now and then."""


class Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    """Connections are kept."""

    def log_message(self, *_: Any) -> None:
        """Silent."""


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The address of the site."""
    with Server(("127.0.0.1", 0), functools.partial(Handler, directory=SITE)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Anchors(HTMLParser):
    """The targets of a page, and what its links within the page refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.references: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.targets.add(value)
            elif name == "href" and value and value.startswith("#") and len(value) > 1:
                self.references.add(unquote(value[1:]))


class Visit:
    """A page in the browser that remembers what went wrong."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.complaints: list[str] = []
        page.on("console", lambda m: self._complain(f"console: {m.text}") if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self._complain(f"script: {error}"))
        page.on("requestfailed", lambda request: self._complain(f"failed: {request.url} {request.failure}"))
        page.on("response", lambda r: self._complain(f"status {r.status}: {r.url}") if r.status >= 400 else None)
        page.on("request", self._check_origin)

    def _complain(self, what: str) -> None:
        self.complaints.append(what)

    def _check_origin(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:", "blob:")):
            self._complain(f"leaves the site: {request.url}")

    def open(self, path: str) -> Any:
        self.page.goto(f"{self.address}/{path}", wait_until="load")
        return self.page


@pytest.fixture(scope="session", params=VIEWPORTS)
def context(request: pytest.FixtureRequest, chromium: Any) -> Iterator[tuple[str, Any]]:
    """A viewport's name, and a browser context of its size."""
    context = chromium.new_context(**VIEWPORTS[request.param])
    context.set_default_timeout(30_000)
    yield request.param, context
    context.close()


@pytest.fixture
def visit(context: tuple[str, Any], address: str) -> Iterator[Visit]:
    page = context[1].new_page()
    yield Visit(page, address)
    page.close()


@pytest.mark.parametrize("path", PAGES)
def test_loads_without_complaints(visit: Visit, context: tuple[str, Any], path: str) -> None:
    page = visit.open(path)
    folder = SCREENSHOTS / context[0]
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{path.removesuffix('.html').replace('/', '-')}.png", full_page=True)
    assert visit.complaints == []
    assert page.locator("article h1").first.is_visible()


@pytest.mark.parametrize("path", PAGES)
def test_nothing_wider_than_the_screen(visit: Visit, path: str) -> None:
    """Tables, code and formulas scroll by themselves, not with the page."""
    page = visit.open(path)
    assert page.evaluate("document.scrollingElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize("path", PAGES)
def test_no_line_of_code_has_a_hidden_end(visit: Visit, path: str) -> None:
    page = visit.open(path)
    assert not page.evaluate(
        "[...document.querySelectorAll('pre code')].filter(e => e.scrollWidth > e.clientWidth + 1)"
        ".map(e => e.textContent.slice(0, 80))"
    )


@pytest.mark.parametrize("path", PAGES)
def test_every_reference_within_the_page_has_its_target(path: str) -> None:
    if reason := missing():
        pytest.skip(reason)
    page = Anchors()
    page.feed((SITE / path).read_text())
    assert page.references <= page.targets


def test_mathematics_is_set(visit: Visit) -> None:
    """A fraction is taller than a letter, and no source is left on the page."""
    page = visit.open("theory/rows.html")
    page.locator("math mfrac").first.scroll_into_view_if_needed()
    fraction = page.locator("math mfrac").first.bounding_box()
    letter = page.locator("math mi").first.bounding_box()
    assert fraction["height"] > 1.3 * letter["height"] > 0
    assert "\\frac" not in page.locator("article").inner_text()


def test_pictures_are_seen(visit: Visit) -> None:
    page = visit.open("weights-order-steps.html")
    picture = page.locator(".figure svg").first
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    assert box["width"] > 250
    assert box["height"] > 100
    assert picture.get_attribute("aria-label")


def open_search(visit: Visit) -> Any:
    """The first page with the cursor in the field of its search."""
    page = visit.open("index.html")
    if page.viewport_size["width"] < MOBILE_MENU:
        page.locator("label.md-header__button[for=__search]").click()
    page.locator("input.md-search__input").click()
    return page


def test_every_letter_can_be_searched(visit: Visit) -> None:
    page = open_search(visit)
    found = page.locator(".md-search-result__meta", has_text=re.compile("match"))
    for letter in string.ascii_lowercase:
        page.keyboard.type(letter)
        found.wait_for()
        page.keyboard.press("Backspace")
        found.wait_for(state="hidden")
    assert visit.complaints == []


def test_search_finds_solve_ode(visit: Visit) -> None:
    page = open_search(visit)
    page.keyboard.type("solve_ode")
    result = page.locator("a.md-search-result__link[href*='reference/smnn_core.html']").first
    result.wait_for()
    result.click()
    page.wait_for_url("**/reference/smnn_core.html*")
    assert visit.complaints == []


def test_tabs_switch(visit: Visit) -> None:
    page = visit.open("index.html")
    labels, blocks = page.locator(".tabbed-labels > label"), page.locator(".tabbed-block")
    assert labels.all_inner_texts() == ["NumPy", "CuPy", "PyTorch", "JAX"]
    assert [blocks.nth(i).is_visible() for i in range(4)] == [True, False, False, False]
    labels.filter(has_text="JAX").click()
    assert [blocks.nth(i).is_visible() for i in range(4)] == [False, False, False, True]
    assert "smnn_jax" in blocks.nth(3).inner_text()


def test_navigation_leads_to_every_page(visit: Visit) -> None:
    page = visit.open("index.html")
    links = page.locator("nav.md-nav--primary a.md-nav__link[href]")
    reached = {
        links.nth(i).evaluate("a => new URL(a.href).pathname.slice(1)") or "index.html" for i in range(links.count())
    }
    assert set(PAGES) - {"404.html"} <= reached

"""One headless Chromium for all tests of a session, and a small site in it."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.report import sites

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium():
    """The browser of the machine: the one that EMUKIT_CHROMIUM names, else the first on the path; None without one."""
    return os.environ.get("EMUKIT_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


# Not for the session: while it is open, the event loop of its thread is taken for a running one by other tests.
@pytest.fixture(scope="module")
def browser():
    """Chromium, driven by Playwright."""
    path = chromium()
    if path is None:
        pytest.skip("no chromium: pages are not tested in a browser; EMUKIT_CHROMIUM may name one")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Without a sandbox it starts for root too; it opens nothing but files of the test.
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of a site of made-up entries."""
    folder = tmp_path_factory.mktemp("pages")
    return sites.write(sites.site(folder), folder / "site")


@pytest.fixture
def visit(browser):
    """Open a file in a new page; what it says on the console, fails to load or asks of a network is a failure."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    wrong = []

    def opened(path, fragment=""):
        page = context.new_page()
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("requestfailed", lambda request: wrong.append(f"not loaded: {request.url}"))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith(("file:", "data:")) else wrong.append(f"asked: {request.url}")
            ),
        )
        page.goto(path.as_uri() + fragment)
        return page

    yield opened
    context.close()
    assert not wrong

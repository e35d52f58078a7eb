"""A real browser, and what every page of ours must keep to in it."""

import os
import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    Request,
    ViewportSize,
    sync_playwright,
)

# Chromium without its sandbox, which root cannot have, and without calls to its maker.
_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
WIDE, NARROW = ViewportSize(width=1440, height=900), ViewportSize(width=390, height=844)
# Hosts that a page may ask.
_OWN = ("127.0.0.1", "localhost", "::1")


# Of a module: as long as it runs, its event loop does in this thread, where others want their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    program = shutil.which("chromium")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is not installed: python scripts/install_browser.py")
        pytest.skip("chromium is not installed (python scripts/install_browser.py, as root)")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=[*_FLAGS])
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A wide, light page. The test fails where a script of the page failed, the page broke its
    Content-Security-Policy, or asked another host for something."""
    context = browser.new_context(viewport=WIDE, color_scheme="light")
    opened = context.new_page()
    faults = faults_of(opened)
    yield opened
    context.close()
    assert not faults


def faults_of(page: Page) -> list[str]:
    """Grows by what a page does and must not, from now on."""
    faults: list[str] = []

    def asked(request: Request) -> None:
        address = urlsplit(request.url)
        if address.hostname and address.hostname not in _OWN:
            faults.append(f"asked for {request.url}")

    def said(message: ConsoleMessage) -> None:
        if message.type == "error" and "Content Security Policy" in message.text:
            faults.append(message.text)

    page.on("request", asked)
    page.on("pageerror", lambda error: faults.append(f"a script failed: {error.message}"))
    page.on("console", said)
    return faults

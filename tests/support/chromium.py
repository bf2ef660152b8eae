"""Debian's Chromium, headless, driven by Playwright: for what only a browser does, such as its own EventSource.

`deploy/install-test-packages` installs it. Tests that use it are marked `system`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.async_api import async_playwright

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import BrowserContext, Page

EXECUTABLE = Path("/usr/bin/chromium")

_FLAGS = (
    "--no-sandbox",  # it refuses to run as root with one
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",  # containers give it 64 MB
    # It must talk to the servers of the test alone.
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@asynccontextmanager
async def chromium_context(**options: object) -> AsyncIterator[BrowserContext]:
    """A browser of its own with a fresh profile. `options` are those of Playwright's `Browser.new_context`."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=_executable(), args=list(_FLAGS), headless=True)
        try:
            yield await browser.new_context(**options)  # type: ignore[arg-type]
        finally:
            await browser.close()


@asynccontextmanager
async def chromium_page(**options: object) -> AsyncIterator[Page]:
    """A page in such a browser."""
    async with chromium_context(**options) as context:
        yield await context.new_page()


def _executable() -> Path:
    assert EXECUTABLE.exists(), f"there is no {EXECUTABLE}: run deploy/install-test-packages as root"
    return EXECUTABLE

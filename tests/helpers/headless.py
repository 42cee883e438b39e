"""A real browser without a screen, which reads one file and nothing else."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser (playwright's Browser)."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, path: Path, hash: str = "", **options: Any) -> Iterator[Any]:
    """A page at `path`, read without an error in its console, a dialog or a request for anything else."""
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
    page, troubles = context.new_page(), []
    page.on("console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
    address = path.as_uri()

    def route(handler: Any) -> None:
        if handler.request.url.split("#")[0] == address:
            handler.continue_()
        else:
            troubles.append(f"asks for {handler.request.url}")
            handler.abort()

    context.route("**/*", route)
    page.goto(address + hash)
    yield page
    assert not troubles, troubles
    context.close()

"""Pages in a real browser: by Playwright, which `make test` installs, in the Chromium on the PATH, where there is one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZES = ((1280, "light"), (390, "dark"))
"""Width of the window in pixels and colour scheme: a desk and a telephone at night."""


@contextmanager
def opened(url: str, width: int, scheme: str) -> Iterator[Any]:
    """A page in a window of that width; afterwards it has raised no error and asked no other address for anything."""
    playwright = pytest.importorskip("playwright.sync_api")
    if _CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        trouble: list[str] = []
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", lambda line: trouble.append(line.text) if line.type in ("error", "warning") else None)
        page.on("request", lambda asked: None if asked.url.startswith((url, "data:")) else trouble.append(asked.url))
        page.goto(url)
        yield page
        browser.close()
    assert trouble == []


def fits(page: Any) -> bool:
    """Whether the page is no wider than its window; tables scroll by themselves."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))

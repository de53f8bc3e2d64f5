"""A real browser, without a window, as a person has it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = shutil.which("chromium")
QUIET = (  # it asks nobody but the pages' servers for anything; without a sandbox root may run it, too
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
).split()

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="wants Chromium (Debian's package chromium)")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Chromium, for the length of a `with` block. What is looked for on a page is waited for, 30 seconds at most."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        try:
            yield browser
        finally:
            browser.close()

"""A Chromium for the session; without one this tier says so and skips."""

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
from comfy_page import BROWSERS, ComfyPage, chromium, open_browser

from tools.comfy_server import ComfyServer


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Closed with its module: Playwright keeps an event loop running in this thread, in which ComfyUI's own cannot start."""
    executable = chromium()
    if executable is None:
        pytest.skip(f"no Chromium on this machine (looked for {', '.join(BROWSERS)})")
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("the Python package playwright is not installed")
    with open_browser(executable) as running:
        yield running


@pytest.fixture
def page(browser: Any, comfy_server: ComfyServer) -> Iterator[ComfyPage]:
    """ComfyUI in a fresh tab. At the end, the pack's scripts must have raised nothing."""
    opened = ComfyPage(browser, comfy_server.url)
    yield opened
    opened.close()
    assert opened.errors == []

"""The page of a newer ComfyUI than the pinned one, which serves it here: what people see of the pack there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_page import CARD, PACK_NAME, ComfyPage

from tools.comfy_server import ComfyServer
from tools.runtime.frontend import ensure_frontend
from tools.runtime.pins import NEWER_FRONTEND

SAMPLER = "window.app.graph.nodes.find(node => node.type == 'FastVideoSampler')"


@pytest.fixture(scope="module")
def page(browser: Any, comfyui_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyPage]:
    """One tab for all; the tests go on from each other's."""
    arguments = ["--front-end-root", str(ensure_frontend())]
    with ComfyServer(comfyui_tree, tmp_path_factory.mktemp("newer"), arguments=arguments) as server:
        opened = ComfyPage(browser, server.url)
        yield opened
        opened.close()
        assert opened.errors == []


def test_templates_show_their_pictures_and_open(page: ComfyPage) -> None:
    assert page.page.evaluate("window.__COMFYUI_FRONTEND_VERSION__") == NEWER_FRONTEND.version
    page.page.evaluate("window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.page.get_by_role("dialog").get_by_text(PACK_NAME, exact=True).click()
    page.page.wait_for_function(f"document.querySelector(\"[data-testid^='{CARD}FastVideo'] img\")?.naturalWidth > 0")
    page.page.get_by_test_id(f"{CARD}FastVideo_demo_t2v").click()
    page.page.wait_for_function(SAMPLER)
    page.page.get_by_role("dialog").wait_for(state="hidden")
    assert "FastVideoSampler" in page.node_types() and page.missing_types() == []


def test_help_panel_shows_the_page_of_the_node(page: ComfyPage) -> None:
    page.page.evaluate(f"window.app.canvas.selectNode({SAMPLER})")
    page.page.get_by_test_id("info-button").click()
    page.page.get_by_text("Settings of Wan's authors").wait_for()


def test_the_node_search_finds_nodes_by_what_people_look_for(page: ComfyPage) -> None:
    page.page.evaluate("window.app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.page.keyboard.type("sageattention")
    page.page.get_by_text("FastVideo Attention", exact=True).first.wait_for()
    page.page.keyboard.press("Escape")


def test_a_run_shows_its_line_and_its_report_in_both_kinds_of_nodes(page: ComfyPage) -> None:
    page.show_vue_nodes(True)
    page.set_widget("FastVideoSampler", "steps", 2)
    page.page.evaluate("window.app.api.addEventListener('progress_text', event => (window.line = event.detail.text))")
    page.run()
    assert page.page.evaluate("window.line").startswith("2 steps in ")  # taken off the node when the run is over
    shown = page.report()
    assert "2 steps euler" in shown
    page.show_vue_nodes(False)
    page.page.wait_for_function("document.querySelector('textarea[readonly]')?.value")
    assert page.report() == shown

"""ComfyUI's page in a headless Chromium, as a person uses it: templates, canvas, Run button."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tools.workflows.files import template_file

PACK_NAME = "fastvideo-nodes"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
CARD = "template-workflow-"
"""How the cards of the template browser begin."""
PATIENCE = 240_000  # milliseconds: on a slow machine the page loads for minutes while other tests run beside it


def chromium() -> str | None:
    """The path of a Chromium on this machine."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def open_browser(executable: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(FLAGS))
        yield browser
        browser.close()


class ComfyPage:
    """One tab. `errors` are those of the pack's own scripts and every exception that nobody caught."""

    def __init__(self, browser: Any, url: str) -> None:
        self.page = browser.new_page(viewport={"width": 1600, "height": 1000})
        self.page.set_default_timeout(PATIENCE)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._listen)
        self.url = url
        self._open()

    def close(self) -> None:
        self.page.close()

    def show_vue_nodes(self, shown: bool) -> None:
        self.page.evaluate("shown => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', shown)", shown)

    def show_locale(self, locale: str) -> None:
        """For this tab, which opens again, and for later ones: the server keeps it."""
        self.page.evaluate("locale => window.app.extensionManager.setting.set('Comfy.Locale', locale)", locale)
        self._open()

    def open_template(self, name: str, pack: str = PACK_NAME) -> None:
        """Opens one of the pack's workflows from the template browser. pack: what that calls the pack."""
        self.page.evaluate("window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        self.page.get_by_role("dialog").get_by_text(pack, exact=True).click()
        self.page.get_by_test_id(CARD + template_file(name).stem).click()
        self.page.wait_for_function("window.app.graph.nodes.some(node => node.type.startsWith('FastVideo'))")
        self.page.get_by_test_id("template-workflows-content").wait_for(state="hidden")
        self.page.get_by_role("dialog").wait_for(state="hidden")

    def load_template(self, name: str) -> None:
        """Opens one as the template browser does, without it."""
        url = f"/api/workflow_templates/{PACK_NAME}/{template_file(name).name}"
        load = "window.app.loadGraphData(await (await fetch(url)).json(), true, true, name, {openSource: 'template'})"
        self.page.evaluate(f"async ([url, name]) => {{ await {load} }}", [url, name])

    def load(self, workflow: dict[str, Any]) -> None:
        self.page.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)

    def load_prompt(self, prompt: dict[str, Any]) -> None:
        """An API prompt, as if its file had been dropped on the page; the template browser of a first visit is closed."""
        self.page.keyboard.press("Escape")
        self.page.get_by_role("dialog").wait_for(state="hidden")
        self.page.evaluate("prompt => window.app.loadApiJson(prompt, 'prompt')", prompt)

    def fresh_size(self, kind: str) -> list[float]:
        """Width and height of a node as it is when it is placed."""
        return list(self.page.evaluate("kind => [...window.LiteGraph.createNode(kind).size]", kind))

    def found_templates(self, words: str) -> set[str]:
        """The pack's templates among those that the template browser shows for a search."""
        self.page.evaluate("window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_placeholder("Search").fill(words)
        shown = dialog.locator(f"[data-testid^='{CARD}FastVideo']")
        shown.first.wait_for()
        self.page.wait_for_timeout(500)  # it waits for the end of the typing
        found = {str(card.get_attribute("data-testid")).removeprefix(CARD) for card in shown.all()}
        self.page.keyboard.press("Escape")
        dialog.wait_for(state="hidden")
        return found

    def resize(self, width: int, height: int) -> None:
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.wait_for_function(f"window.app.canvas.canvas.width == {width}")

    def scale(self) -> float:
        """At which the canvas is shown."""
        return float(self.page.evaluate("window.app.canvas.ds.scale"))

    def node_types(self) -> list[str]:
        return list(self.page.evaluate("window.app.graph.nodes.map(node => node.type)"))

    def missing_types(self) -> list[str]:
        """Types of nodes on the canvas that ComfyUI does not know."""
        known = "type in window.LiteGraph.registered_node_types"
        return list(self.page.evaluate(f"window.app.graph.nodes.map(node => node.type).filter(type => !({known}))"))

    def prompt(self) -> dict[str, Any]:
        """The API prompt that the Run button would post."""
        return dict(json.loads(self.page.evaluate("async () => JSON.stringify((await window.app.graphToPrompt()).output)")))

    def saved(self) -> dict[str, Any]:
        """The workflow as Save would write it."""
        return dict(json.loads(self.page.evaluate("JSON.stringify(window.app.graph.serialize())")))

    def set_widget(self, kind: str, name: str, value: Any) -> None:
        found = "window.app.graph.nodes.find(node => node.type == kind).widgets.find(widget => widget.name == name)"
        self.page.evaluate(f"([kind, name, value]) => {{ {found}.value = value }}", [kind, name, value])

    def title(self, kind: str) -> str:
        """Of a node as the canvas draws it."""
        return str(self.page.evaluate("kind => window.app.graph.nodes.find(node => node.type == kind).title", kind))

    def label(self, kind: str, name: str) -> str:
        """Of a widget as the canvas draws it."""
        found = "window.app.graph.nodes.find(node => node.type == kind).widgets.find(widget => widget.name == name)"
        return str(self.page.evaluate(f"([kind, name]) => {found}.label", [kind, name]))

    def hovered(self, kind: str, name: str) -> str:
        """The tooltip of a widget, over which the mouse rests."""
        place = (
            "([kind, name]) => { const {graph, canvas} = window.app; const node = graph.nodes.find(node => node.type == kind);"
            "const {y} = node.widgets.find(widget => widget.name == name);"
            "const {left, top} = canvas.canvas.getBoundingClientRect();"
            "const [x, below] = canvas.ds.convertOffsetToCanvas([node.pos[0] + 60, node.pos[1] + y + 10]);"
            "return [left + x, top + below] }"
        )
        x, y = self.page.evaluate(place, [kind, name])
        self.page.mouse.move(x - 3, y)
        self.page.mouse.move(x, y)
        tooltip = self.page.locator(".node-tooltip")
        tooltip.wait_for()
        return str(tooltip.inner_text())

    def open_help(self, kind: str) -> None:
        """The help panel with a node's page."""
        self.page.evaluate("kind => window.app.canvas.selectNode(window.app.graph.nodes.find(node => node.type == kind))", kind)
        self.page.get_by_test_id("info-button").click()

    def start(self) -> None:
        """Presses Run."""
        ends = (
            "const {api} = window.app;"
            "api.addEventListener('execution_success', () => (window.ended = true), {once: true});"
            "api.addEventListener('execution_error', ({detail}) => (window.failed = detail.exception_message), {once: true});"
        )
        self.page.evaluate(f"() => {{ {ends} }}")
        self.page.get_by_test_id("queue-button").click()

    def run(self) -> None:
        """Presses Run and waits until the prompt has ended well."""
        self.start()
        self.page.wait_for_function("window.ended")
        self.page.evaluate("window.ended = false")

    def report(self) -> str:
        """What the run report's text area shows."""
        return str(self.page.get_by_placeholder("The report appears here after a run.").input_value())

    def texts(self) -> list[str]:
        """What the text areas of the pack's nodes show."""
        areas = self.page.get_by_placeholder("The report appears here after a run.").all()
        return [str(area.input_value()) for area in areas]

    def video_size(self) -> tuple[int, int]:
        """Of the player on the canvas, once it has the video."""
        self.page.wait_for_function("document.querySelector('video')?.videoWidth > 0")
        return tuple(self.page.evaluate("(v => [v.videoWidth, v.videoHeight])(document.querySelector('video'))"))

    def _open(self) -> None:
        self.page.goto(self.url)
        # The very first visit opens the template browser; every other one a workflow.
        shown = "(window.app.graph?.nodes.length || document.querySelector('[role=dialog]'))"
        self.page.wait_for_function(f"window.app?.vueAppReady && window.app.extensionManager && {shown}")

    def _listen(self, message: Any) -> None:
        source = message.location.get("url", "")
        if message.type == "error" and f"/extensions/{PACK_NAME}/" in source and source.endswith(".js"):
            self.errors.append(message.text)

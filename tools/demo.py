"""The demo: boots ComfyUI without a display, posts the demo prompts as any client would, and leaves their videos in output/.

make demo                                  the text-to-video and the image-to-video prompt
make demo ARGS="demo_t2v"                  one of workflows/api/
make demo ARGS="my.json --output videos"   any API prompt, another folder
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tools.comfy_client import Event, PromptFailed, PromptRefused, ServerError
from tools.comfy_server import ComfyServer
from tools.contact_sheet import contact_sheet
from tools.runtime.pins import NEWEST, ROOT, RUNTIME

DEMOS = ("demo_t2v", "demo_i2v")
FIRST_FRAME = ROOT / "assets" / "demo_first_frame.png"

Prompt = dict[str, Any]


class ProgressLine:
    """What the server is doing: on a terminal one line that changes, elsewhere one line for each node."""

    def __init__(self, prompt: Prompt, names: dict[str, str]) -> None:
        self._names = {node: names.get(found["class_type"], found["class_type"]) for node, found in prompt.items()}
        self._live = sys.stdout.isatty()

    def show(self, event: Event) -> None:
        node = event.data.get("node")
        if event.type == "executing" and node is not None:
            self._write(self._names[node])
        elif event.type == "progress" and (self._live or event.data["value"] == event.data["max"]):
            self._write(f"{self._names[node]}: step {event.data['value']}/{event.data['max']}")

    def end(self) -> None:
        if self._live:
            print("\r\033[K", end="", flush=True)

    def _write(self, text: str) -> None:
        print(f"\r\033[K  {text}" if self._live else f"  {text}", end="" if self._live else "\n", flush=True)


def read_prompt(name: str) -> Prompt:
    """An API prompt: a JSON file, or the name of one in workflows/api/."""
    path = Path(name) if name.endswith(".json") else ROOT / "workflows" / "api" / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in (ROOT / "workflows" / "api").glob("*.json"))) or "none"
        raise SystemExit(f"There is no prompt {path}. In workflows/api there are: {known}.")
    return dict(json.loads(path.read_text()))


def play(name: str, prompt: Prompt, server: ComfyServer, node_names: dict[str, str]) -> list[Path]:
    """Run one prompt, show its progress, print what it saved. Returns the saved files."""
    print(f"{name}:", flush=True)
    line, started = ProgressLine(prompt, node_names), time.monotonic()
    prompt_id = server.post(prompt)
    server.wait(prompt_id, timeout=3600, on_event=line.show)
    line.end()
    files = server.files(prompt_id)
    for file in files:
        print(f"  {file}  ({time.monotonic() - started:.1f} s)", flush=True)
    return files


def run(names: list[str], output: Path) -> None:
    """Play the prompts on a server of their own, which is stopped however this ends."""
    prompts = {name: read_prompt(name) for name in names}
    tree = Path(os.environ.get("COMFYUI_PATH", NEWEST.tree)).resolve()
    RUNTIME.mkdir(exist_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=RUNTIME, prefix="demo-") as base:
        server = ComfyServer(tree, Path(base), output.resolve())
        print(f"Starting ComfyUI ({tree}) at {server.url}", flush=True)
        try:
            with server:
                shutil.copy(FIRST_FRAME, server.input_folder() / "fastvideo_demo_first_frame.png")  # demo_i2v of 0.1.0 loads it
                node_names = {node: info["display_name"] or node for node, info in server.object_info().items()}
                print(f"ComfyUI answers after {time.monotonic() - started:.1f} s", flush=True)
                played = [play(name, prompt, server, node_names) for name, prompt in prompts.items()]
                videos = [file for files in played for file in files if file.suffix == ".mp4"]
                if videos:
                    sheet = output.resolve() / "contact_sheet.png"
                    contact_sheet(videos, sheet)
                    print(f"Their frames: {sheet}", flush=True)
                print(f"All in {time.monotonic() - started:.1f} s.", flush=True)
        except (PromptFailed, PromptRefused) as error:
            raise ServerError(f"{error}\nEnd of ComfyUI's log:\n{server.log_tail()}") from error


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description="Run API prompts on a headless ComfyUI with this pack.")
    parser.add_argument("prompts", nargs="*", default=list(DEMOS), help="names in workflows/api/, or JSON files")
    parser.add_argument("--output", type=Path, default=ROOT / "output", help="folder for the videos (default: output/)")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped then too
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
    try:
        run(given.prompts, given.output)
    except KeyboardInterrupt:
        print("\nStopped; the server too.", file=sys.stderr)
        return 130
    except ServerError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

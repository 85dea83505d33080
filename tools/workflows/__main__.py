"""Writes workflows/*.json, workflows/api/*.json and the demo's first frame.

    python -m tools.workflows COMFYUI_FOLDER

A ComfyUI server is started for a moment: it says which inputs and outputs every node has.
"""

import argparse
import tempfile
from pathlib import Path

from tools.comfy_server import ComfyServer
from tools.workflows.files import FOLDER, PACK, api_prompt, canvas_workflows, text
from tools.workflows.first_frame import first_frame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comfyui", type=Path, help="the ComfyUI folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as base, ComfyServer(arguments.comfyui, Path(base)) as server:
        object_info = server.object_info()
    for name, workflow in canvas_workflows(object_info).items():
        (FOLDER / f"{name}.json").write_text(text(workflow), encoding="utf-8")
        (FOLDER / "api" / f"{name}.json").write_text(text(api_prompt(workflow, object_info)), encoding="utf-8")
        print(f"workflows/{name}.json, workflows/api/{name}.json")
    first_frame().save(PACK / "assets" / "demo_first_frame.png")


if __name__ == "__main__":
    main()

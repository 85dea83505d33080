"""Writes everything in workflows/ and subgraphs/, and the demo's first frame in assets/.

    python -m tools.workflows COMFYUI_FOLDER

A ComfyUI server is started for a moment: it says which inputs and outputs every node has, and runs the demo workflows for their
thumbnails.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from tools.comfy_server import ComfyServer
from tools.workflows.blueprints import blueprints
from tools.workflows.demo import DEMO_WORKFLOWS
from tools.workflows.files import PACK, api_prompt, blueprint_file, canvas_workflows, prompt_file, template_file, text, versions
from tools.workflows.first_frame import first_frame
from tools.workflows.thumbnails import graph_thumbnail, video_thumbnail


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comfyui", type=Path, help="the ComfyUI folder")
    arguments = parser.parse_args()
    first_frame().save(PACK / "assets" / "demo_first_frame.png")
    with tempfile.TemporaryDirectory() as base, ComfyServer(arguments.comfyui.resolve(), Path(base)) as server:
        object_info = server.object_info()
        for name, workflow in canvas_workflows(object_info).items():
            prompt = api_prompt(workflow, object_info)
            template_file(name).write_text(text(workflow), encoding="utf-8")
            prompt_file(name).write_text(text(prompt), encoding="utf-8")
            made = video_thumbnail(workflow, _frames(server, prompt)) if name in DEMO_WORKFLOWS else graph_thumbnail(workflow)
            made.save(template_file(name, "jpg"), quality=88)
            print(f"{template_file(name).name}, .jpg, api/{prompt_file(name).name}")
        for name, blueprint in blueprints(object_info, versions()).items():
            blueprint_file(name).write_text(text(blueprint), encoding="utf-8")
            print(blueprint_file(name).name)


def _frames(server: ComfyServer, prompt: dict[str, Any]) -> list[Image.Image]:
    """Runs a prompt and decodes the videos that it saves."""
    import av

    identity = server.post(prompt)
    server.wait(identity)
    frames: list[Image.Image] = []
    for file in server.files(identity):
        if file.suffix == ".mp4":
            with av.open(str(file)) as container:
                frames += [frame.to_image() for frame in container.decode(video=0)]
    return frames


if __name__ == "__main__":
    main()

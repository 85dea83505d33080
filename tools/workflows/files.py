"""All workflows as the files that the pack ships: what people open, and the API prompts made from it."""

import json
from pathlib import Path
from typing import Any

import tomllib

from tools.workflows.canvas import ObjectInfo, PackVersions
from tools.workflows.demo import DEMO_WORKFLOWS, demo_canvas
from tools.workflows.multi_gpu import multi_gpu_canvas
from tools.workflows.multi_gpu_batch import multi_gpu_batch_canvas
from tools.workflows.wan import WAN_WORKFLOWS, wan_canvas

PACK = Path(__file__).resolve().parents[2]
FOLDER = PACK / "workflows"


def template_file(name: str, ending: str = "json") -> Path:
    """What the template browser shows. A file's name is the title there and all that is searched, and links to it (?template=)
    take no spaces; so the pack's name stands before the workflow's own, which stays a part of it, and is the API prompt's."""
    return FOLDER / f"FastVideo_{name}.{ending}"


def prompt_file(name: str) -> Path:
    return FOLDER / "api" / f"{name}.json"


def canvas_workflows(object_info: ObjectInfo) -> dict[str, dict[str, Any]]:
    """Name -> workflow as the canvas saves it."""
    packs = versions()
    canvases = [demo_canvas(name, object_info, packs) for name in DEMO_WORKFLOWS]
    canvases += [wan_canvas(name, object_info, packs) for name in WAN_WORKFLOWS]
    canvases += [multi_gpu_canvas(object_info, packs), multi_gpu_batch_canvas(object_info, packs)]
    return {canvas.name: canvas.json() for canvas in canvases}


def api_prompt(workflow: dict[str, Any], object_info: ObjectInfo) -> dict[str, Any]:
    """The prompt that the canvas would post for the workflow, without a browser: comfy-cli's converter.

    Raises:
        ValueError: the converter left out a node.
    """
    from comfy_cli.workflow_to_api import convert_ui_to_api

    prompt: dict[str, Any] = convert_ui_to_api(workflow, dict(object_info))
    expected = {str(node["id"]) for node in workflow["nodes"] if node["type"] != "MarkdownNote" and node["mode"] == 0}
    if prompt.keys() != expected:
        raise ValueError(f"The API prompt has the nodes {sorted(prompt)} and the workflow {sorted(expected)}.")
    return prompt


def blueprint_file(name: str) -> Path:
    """Which ComfyUI lists by its name."""
    return PACK / "subgraphs" / f"{name}.json"


def text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def versions() -> PackVersions:
    """The pack's own version, and the oldest ComfyUI that it supports."""
    project = tomllib.loads((PACK / "pyproject.toml").read_text(encoding="utf-8"))
    oldest = project["tool"]["comfy"]["requires-comfyui"].removeprefix(">=")
    return PackVersions(("comfy-core", oldest), (project["project"]["name"], project["project"]["version"]))

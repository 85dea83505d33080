"""Keeps what this version of the pack ships, for the test that later ones run it unchanged. Once per version, before its release.

    python -m tools.workflows.keep COMFYUI_FOLDER

In tests/workflows/kept/<version>/: the workflows, their API prompts, the inputs and outputs of every node (nodes.json), and the
latents that the demo prompts give (latents.safetensors, float16).
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from tools.comfy_in_process import ComfyInProcess
from tools.workflows.demo import DEMO_WORKFLOWS
from tools.workflows.files import FOLDER, PACK, template_file, text, versions

KEPT = PACK / "tests" / "workflows" / "kept"
SAMPLERS = {"FastVideoSampler", "FastVideoPhaseSampler"}
"""Those whose first output is the latents of one video."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comfyui", type=Path, help="the ComfyUI folder")
    arguments = parser.parse_args()
    folder = KEPT / versions().pack[1]
    shutil.copytree(FOLDER / "api", folder / "api")
    for prompt in (folder / "api").iterdir():
        shutil.copyfile(template_file(prompt.stem), folder / prompt.name)
    with tempfile.TemporaryDirectory() as base:
        host = ComfyInProcess(arguments.comfyui.resolve(), Path(base))
        host.load_pack(PACK)
        (folder / "nodes.json").write_text(text(node_table(host)), encoding="utf-8")
        prompts = {name: json.loads((folder / "api" / f"{name}.json").read_text(encoding="utf-8")) for name in DEMO_WORKFLOWS}
        latents = {f"{name}.{node}": x.half() for name, prompt in prompts.items() for node, x in sampled(host, prompt).items()}
    save_file(latents, folder / "latents.safetensors")


def node_table(host: ComfyInProcess) -> dict[str, Any]:
    """Node id -> its inputs, in the order of their widgets, and outputs. `default` is of those that a prompt may leave out;
    `options` are those of choices."""
    own = {name: node for name, node in host.node_classes.items() if name.startswith("FastVideo")}
    return {name: {"inputs": _inputs(node), "outputs": _outputs(node)} for name, node in sorted(own.items())}


def sampled(host: ComfyInProcess, prompt: Mapping[str, Any]) -> dict[str, Tensor]:
    """Node -> the latents of each sampler, (1, 16, T, H, W), computed anew."""
    host.reset()
    return {node: latent["samples"] for node, latent in captured(host, prompt, SAMPLERS).items()}


def captured(host: ComfyInProcess, prompt: Mapping[str, Any], kinds: Set[str]) -> dict[str, Any]:
    """Node -> the first output of each node of those classes."""
    return host.run(prompt, {node: (node, 0) for node, entry in prompt.items() if entry["class_type"] in kinds}).captured


def _inputs(node: Any) -> list[dict[str, Any]]:
    sections = node.INPUT_TYPES()
    given = [(*entry, section) for section in ("required", "optional") for entry in sections.get(section, {}).items()]
    return [_input(name, *definition, optional=section == "optional") for name, definition, section in given]


def _input(name: str, kind: str, details: Mapping[str, Any], optional: bool) -> dict[str, Any]:
    default = {"default": details["default"]} if optional and "default" in details else {}
    options = [option["key"] if isinstance(option, dict) else option for option in details.get("options", ())]
    return {"name": name, "type": kind, "optional": optional, **default, **({"options": options} if options else {})}


def _outputs(node: Any) -> list[dict[str, str]]:
    return [{"name": name, "type": kind} for name, kind in zip(node.RETURN_NAMES, node.RETURN_TYPES, strict=True)]


if __name__ == "__main__":
    main()

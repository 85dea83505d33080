"""A run that is kept outlives its server: killed or interrupted in the middle, it goes on in another process bit by bit."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from demo_prompts import demo_prompt, node_of
from safetensors.torch import load_file

from tools.comfy_server import ComfyServer
from tools.reliability.servers import kill

SMALL = {"steps": 60, "solver": "unipc", "gate": 0.9, "width": 32, "height": 32, "length": 5}
STATES = "fastvideo_states"
ENDS = (13, 26)
"""The steps before which the second and the third phase begin."""
NEEDED = {
    "FastVideoLoadDemoWan", "FastVideoTextEncode", "EmptyHunyuanLatentVideo", "FastVideoPhase", "FastVideoPhaseSampler",
    "FastVideoRunReport",
}  # fmt: skip

Latents = tuple[torch.Tensor, str]
"""With the report's text."""


@pytest.fixture
def doomed(comfyui_tree: Path, tmp_path: Path) -> Iterator[ComfyServer]:
    """One to be killed; `comfy_server` is the one that goes on."""
    with ComfyServer(comfyui_tree, tmp_path) as server:
        yield server


def prompt_of(**state: Any) -> dict[str, Any]:
    """The demo of phases, small, up to its latents."""
    prompt = demo_prompt("demo_phases", **SMALL, **state)
    prompt = {name: node for name, node in prompt.items() if node["class_type"] in NEEDED}
    del prompt[node_of(prompt, "FastVideoRunReport")]["inputs"]["images"]
    saved = {"samples": [node_of(prompt, "FastVideoPhaseSampler"), 0], "filename_prefix": "latents"}
    return {**prompt, "latents": {"class_type": "SaveLatent", "inputs": saved}}


def ran(server: ComfyServer, **state: Any) -> Latents:
    prompt = prompt_of(**state)
    identity = server.post(prompt)
    server.wait(identity)
    (file,) = server.files(identity)
    (text,) = server.history(identity)["outputs"][node_of(prompt, "FastVideoRunReport")]["text"]
    return load_file(file)["latent_tensor"], text


def resumed_at(text: str) -> int:
    (step,) = re.findall(r"resumed at step (\d+)", text)
    return int(step)


def told(server: ComfyServer, step: int, **state: Any) -> str:
    """Runs the prompt until this step has been told. The prompt's id."""
    identity = server.post(prompt_of(**state))
    for event in server.events(identity):
        if event.type == "progress" and event.data["value"] >= step:
            return identity
    pytest.fail(f"The prompt ended before step {step}: {event.type}")


def test_a_run_goes_on_after_its_server_was_killed_and_it_was_interrupted(
    doomed: ComfyServer, comfy_server: ComfyServer
) -> None:
    whole, _ = ran(doomed)
    told(doomed, ENDS[0] + 3, save_state="kept")
    kill(doomed)
    shutil.copytree(doomed.model_folder(STATES), comfy_server.model_folder(STATES), dirs_exist_ok=True)
    resumed = {"resume_state": "kept.safetensors"}
    identity = told(comfy_server, ENDS[1] + 3, save_state="interrupted", **resumed)
    comfy_server.interrupt(identity)
    assert comfy_server.wait(identity)[-1].type == "execution_interrupted"
    latents, text = ran(comfy_server, resume_state="interrupted.safetensors")
    assert ENDS[1] + 3 <= resumed_at(text) < SMALL["steps"]
    assert torch.equal(latents, whole)
    latents, text = ran(comfy_server, **resumed)
    assert resumed_at(text) in ENDS, "what was made of the phase at work was lost, and no more"
    assert torch.equal(latents, whole)

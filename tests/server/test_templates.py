"""Every shipped template on a real server, as it is but for its size: small files lie under the names that its loaders give."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from comfy_cli.workflow_to_api import convert_ui_to_api
from demo_prompts import FIRST_FRAME, PACK, demo_prompt, node_of
from template_files import write

from tools.comfy_server import ComfyServer
from tools.workflows.files import blueprint_file

Prompt = dict[str, Any]
NAMES = sorted(path.stem for path in (PACK / "workflows" / "api").glob("*.json"))
SWITCHES = {"PrimitiveBoolean": False, "PrimitiveFloat": 0.0}
"""Their values for the plain run."""
SWITCHED = [name for name in NAMES if any(node["class_type"] in SWITCHES for node in demo_prompt(name).values())]
SMALL = {"width": 32, "height": 32, "length": 5}
MANY_STEPS, FEWER_STEPS = 40, 12
"""Those of the published checkpoints, and as many as let a step cache skip some."""
LOADERS = {
    "UNETLoader": ("diffusion_models", "unet_name"), "FastVideoLoadModelOnWorkers": ("diffusion_models", "model_name"),
    "LoraLoaderModelOnly": ("loras", "lora_name"),
    "CLIPLoader": ("text_encoders", "clip_name"), "CLIPVisionLoader": ("clip_vision", "clip_name"),
    "VAELoader": ("vae", "vae_name"),
}  # fmt: skip
"""Which folder's file a loader names, and in which widget."""
CACHE = r"^{name}: [1-9]\d*% of the block calls saved"
SPEED = {
    "FastVideoMagCache": CACHE.format(name="MagCache"),
    "FastVideoDBCache": CACHE.format(name="DBCache"),
    "FastVideoAttention": r"^self-attention of the .* expert: .*\n(.*\n)*text of the .* expert: 512 rows folded into \d+",
}
"""What a run report says where such a node is before its sampler, and nowhere else."""
FEW_STEPS = r"^[48] steps euler, .*\n(.*\n)*.* expert: \d steps? from .*, guidance scale 1; calls: \d x 1 branch"
PHASE = re.compile(r"^\S+ expert: \d+ steps? from sigma", re.MULTILINE)
MODELS = ("model", "low_noise_model", "base_model")


@pytest.fixture(scope="module")
def server(comfyui_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """One with the templates' files, whose core has networks as small as they are (`smaller_core`)."""
    server = ComfyServer(comfyui_tree, tmp_path_factory.mktemp("templates"))
    for folder, name in loaded():
        write(server.model_folder(folder) / name)
    shutil.copyfile(FIRST_FRAME, server.input_folder() / "example.png")
    (server.base / "custom_nodes").mkdir()
    shutil.copyfile(PACK / "tests" / "smaller_core.py", server.base / "custom_nodes" / "smaller_core.py")
    with server:
        yield server


def loaded() -> set[tuple[str, str]]:
    """(folder, name) of each file."""
    nodes = [node for name in NAMES for node in demo_prompt(name).values() if node["class_type"] in LOADERS]
    return {(folder, node["inputs"][widget]) for node in nodes for folder, widget in [LOADERS[node["class_type"]]]}


@pytest.mark.parametrize("name", NAMES)
def test_template_makes_its_video_and_does_what_it_promises(server: ComfyServer, name: str) -> None:
    prompt = small(name)
    identity = server.post(prompt)
    server.wait(identity)
    videos = [file for file in server.files(identity) if file.suffix == ".mp4"]
    assert videos and {frames(video) for video in videos} == {SMALL["length"]}
    for node, report in reports(server, identity, prompt):
        (sampler,) = sources(prompt, node, ["report"])
        before = kinds_before(prompt, sampler)
        assert len(PHASE.findall(report)) == phases(prompt, sampler), report
        assert ("not a published size" in report) == ("FastVideoLoadDemoWan" in before), report
        assert told(report) - tuned(before) == before & SPEED.keys(), report
        assert re.search(FEW_STEPS, report, re.MULTILINE) or "FastVideoRecipe" not in before, report


@pytest.mark.parametrize("name", SWITCHED)
def test_one_switch_goes_back_to_the_plain_run(server: ComfyServer, name: str) -> None:
    prompt = small(name)
    (switch,) = (node for node, entry in prompt.items() if entry["class_type"] in SWITCHES)
    switched = {entry["class_type"] for node, entry in prompt.items() if switch in sources(prompt, node)}
    prompt[switch]["inputs"]["value"] = SWITCHES[prompt[switch]["class_type"]]
    identity = server.post(prompt)
    server.wait(identity)
    ((_, report),) = reports(server, identity, prompt)
    assert switched
    assert not told(report) & switched, report
    assert not re.search(FEW_STEPS, report, re.MULTILINE), report


def test_a_blueprint_runs_beside_a_node_that_takes_what_it_makes(server: ComfyServer) -> None:
    """As the canvas posts it; that all blueprints are parts of workflows above is a test of their files."""
    blueprint = json.loads(blueprint_file("Wan 2.2 4 steps").read_text(encoding="utf-8"))
    prompt = convert_ui_to_api(blueprint, server.object_info())
    made = {"report": [node_of(prompt, "FastVideoPhaseSampler"), 1], "images": [node_of(prompt, "VAEDecode"), 0]}
    prompt[node_of(prompt, "EmptyHunyuanLatentVideo")]["inputs"] |= SMALL
    prompt["report"] = {"class_type": "FastVideoRunReport", "inputs": made}
    identity = server.post(prompt)
    server.wait(identity)
    ((_, report),) = reports(server, identity, prompt)
    assert re.search(FEW_STEPS, report, re.MULTILINE), report


def test_core_knew_every_weight(server: ComfyServer) -> None:
    """It loads what it can of a file, and says what is missing or left over."""
    words = r"(?:unet|clip|vae) missing|missing (?:clip|vae)|unet unexpected|left over keys in diffusion|not loaded"
    assert re.findall(f".*(?:{words}).*", server.log.read_text(errors="replace"), re.IGNORECASE) == []


def small(name: str) -> Prompt:
    prompt = demo_prompt(name, **SMALL)
    for node in prompt.values():
        steps = node["inputs"].get("steps")
        if isinstance(steps, int) and steps >= MANY_STEPS:
            node["inputs"]["steps"] = FEWER_STEPS
        if node["class_type"] == "FastVideoWorkers":  # one is enough: what several do has test files of its own
            node["inputs"] |= {"device": "CPU", "count": 1}
    return prompt


def frames(video: Path) -> int:
    with av.open(str(video)) as container:
        return len(list(container.decode(video=0)))


def reports(server: ComfyServer, identity: str, prompt: Prompt) -> list[tuple[str, str]]:
    """Each node, and what it shows of each of its videos."""
    outputs = server.history(identity)["outputs"]
    nodes = [node for node, entry in prompt.items() if entry["class_type"] == "FastVideoRunReport"]
    return [(node, report) for node in nodes for report in outputs[node]["text"]]


def told(report: str) -> set[str]:
    return {kind for kind, words in SPEED.items() if re.search(words, report, re.MULTILINE)}


def tuned(before: set[str]) -> set[str]:
    """The caches that auto-tune may have put on a model."""
    return {"FastVideoMagCache", "FastVideoDBCache"} if "FastVideoAutoTune" in before else set()


def sources(prompt: Prompt, node: str, inputs: Any = None) -> list[str]:
    """The nodes that these inputs of a node come from; all inputs if None."""
    given = prompt[node]["inputs"]
    return [given[name][0] for name in (given if inputs is None else inputs) if isinstance(given.get(name), list)]


def phases(prompt: Prompt, node: str) -> int:
    """Of a sampler: as many as models reach it, itself or over a chain."""
    return len(sources(prompt, node, MODELS)) + sum(phases(prompt, before) for before in sources(prompt, node, ["phases"]))


def kinds_before(prompt: Prompt, node: str) -> set[str]:
    before = sources(prompt, node)
    return {prompt[source]["class_type"] for source in before}.union(*(kinds_before(prompt, source) for source in before))

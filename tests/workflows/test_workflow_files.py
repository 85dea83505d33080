"""The shipped workflow files: what the code that describes them makes, tidy, complete, and accepted by ComfyUI."""

import json
import re
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from demo_prompts import FIRST_FRAME
from PIL import Image

from fastvideo_core.wan import VARIANTS
from tools.workflows.bilingual import BETWEEN
from tools.workflows.canvas import TITLE
from tools.workflows.demo import ACCELERATORS, DEMO_WORKFLOWS
from tools.workflows.files import FOLDER, api_prompt, canvas_workflows, prompt_file, template_file, text
from tools.workflows.first_frame import first_frame
from tools.workflows.memory import network
from tools.workflows.multi_gpu import MULTI_GPU
from tools.workflows.multi_gpu_batch import MULTI_GPU_BATCH
from tools.workflows.thumbnails import SIZE, graph_thumbnail
from tools.workflows.wan import WAN_WORKFLOWS
from tools.workflows.wan_memory import needed

ON_WORKERS = (MULTI_GPU, MULTI_GPU_BATCH)
NAMES = [*DEMO_WORKFLOWS, *WAN_WORKFLOWS, *ON_WORKERS]
LOADER_WIDGETS = {
    "UNETLoader", "CLIPLoader", "VAELoader", "CLIPVisionLoader", "LoraLoaderModelOnly", "FastVideoLoadModelOnWorkers",
}  # fmt: skip
PUBLISHERS = ("https://huggingface.co/Comfy-Org/", "https://huggingface.co/Kijai/WanVideo_comfy/")
"""Where ComfyUI's own templates take theirs."""


def workflow(name: str) -> dict[str, Any]:
    return json.loads(template_file(name).read_text(encoding="utf-8"))


def prompt(name: str) -> dict[str, Any]:
    return json.loads(prompt_file(name).read_text(encoding="utf-8"))


def notes(name: str) -> list[str]:
    """The English half of the note, and the Chinese one."""
    (text,) = (node["widgets_values"][0] for node in workflow(name)["nodes"] if node["type"] == "MarkdownNote")
    return text.split(BETWEEN)


def test_there_is_a_file_for_every_workflow_and_no_other() -> None:
    assert set(FOLDER.glob("*.json")) == set(map(template_file, NAMES))
    assert set((FOLDER / "api").glob("*.json")) == set(map(prompt_file, NAMES))


def test_titles_are_found_by_the_name_of_the_pack_and_links_to_them_work() -> None:
    for name in NAMES:
        title = template_file(name).stem
        assert title.startswith("FastVideo")
        assert title.endswith(name)  # how the first version's are called
        assert re.fullmatch(r"[a-zA-Z0-9_.-]+", title)  # what the page takes behind ?template=


def test_files_are_what_the_code_makes(object_info: dict[str, Any]) -> None:
    for name, made in canvas_workflows(object_info).items():
        assert template_file(name).read_text(encoding="utf-8") == text(made), f"{name}: run python -m tools.workflows"


@pytest.mark.parametrize("name", NAMES)
def test_api_prompt_is_made_from_the_workflow(object_info: dict[str, Any], name: str) -> None:
    assert prompt(name) == api_prompt(workflow(name), object_info)


@pytest.mark.parametrize("name", NAMES)
def test_every_link_joins_sockets_of_one_type(object_info: dict[str, Any], name: str) -> None:
    shown = workflow(name)
    nodes = {node["id"]: node for node in shown["nodes"]}
    for link, source, output, target, slot, kind in shown["links"]:
        assert nodes[source]["outputs"][output]["type"] == nodes[target]["inputs"][slot]["type"] == kind
        assert nodes[target]["inputs"][slot]["link"] == link
        assert link in nodes[source]["outputs"][output]["links"]


@pytest.mark.parametrize("name", NAMES)
def test_no_two_nodes_overlap_and_every_node_lies_in_one_group(name: str) -> None:
    shown = workflow(name)
    boxes = {node["id"]: _box(node) for node in shown["nodes"]}
    for (first, a), (second, b) in combinations(boxes.items(), 2):
        assert not _overlap(a, b), f"nodes {first} and {second} overlap"
    groups = [_corners(*group["bounding"]) for group in shown["groups"]]
    assert not [pair for pair in combinations(groups, 2) if _overlap(*pair)]
    for node in shown["nodes"]:
        holders = sum(_inside(boxes[node["id"]], group) for group in groups)
        assert holders == (0 if node["type"] == "MarkdownNote" else 1)


@pytest.mark.parametrize("name", NAMES)
def test_every_loader_names_its_file_and_where_to_get_it(name: str) -> None:
    for node in workflow(name)["nodes"]:
        if node["type"] not in LOADER_WIDGETS:
            assert "models" not in node["properties"]
            continue
        (model,) = node["properties"]["models"]
        assert node["widgets_values"][0] == model["name"]
        assert model["url"].startswith(PUBLISHERS)
        assert model["url"].endswith(f"/{model['name']}")
        assert f"/{model['directory']}/" in model["url"] or "Lightx2v" in model["url"]


@pytest.mark.parametrize("name", NAMES)
def test_every_node_says_which_pack_it_comes_from(name: str) -> None:
    for node in workflow(name)["nodes"]:
        if node["type"] != "MarkdownNote":
            expected = "fastvideo-nodes" if node["type"].startswith("FastVideo") else "comfy-core"
            assert node["properties"]["cnr_id"] == expected
            assert node["properties"]["ver"].count(".") == 2


@pytest.mark.parametrize("name", [name for name, files in WAN_WORKFLOWS.items() if not files.loras])
def test_wan_prompt_samples_as_its_authors_do(name: str) -> None:
    variant = WAN_WORKFLOWS[name].variant
    (sampler,) = (node["inputs"] for node in prompt(name).values() if node["class_type"] == "FastVideoSampler")
    (size,) = (node["inputs"] for node in prompt(name).values() if "length" in node["inputs"])
    (video,) = (node["inputs"] for node in prompt(name).values() if node["class_type"] == "CreateVideo")
    assert VARIANTS[variant.name] is variant
    assert (sampler["steps"], sampler["shift"]) == (variant.steps, variant.shift)
    assert sampler["guidance_scale"] == variant.guidance_scale
    assert (size["width"], size["height"], size["length"]) == (variant.width, variant.height, variant.frames)
    assert video["fps"] == variant.fps
    assert ("low_noise_model" in sampler) == variant.two_experts
    if variant.two_experts:
        assert (sampler["low_noise_guidance_scale"], sampler["boundary"]) == (variant.low_noise_guidance_scale, variant.boundary)


def test_every_published_variant_has_its_workflow() -> None:
    assert {files.variant.name for files in WAN_WORKFLOWS.values() if not files.loras} == VARIANTS.keys()


@pytest.mark.parametrize("name", [name for name, files in WAN_WORKFLOWS.items() if files.loras])
def test_few_step_prompt_has_the_loras_that_its_recipe_is_recognised_by(name: str) -> None:
    files, nodes = WAN_WORKFLOWS[name], prompt(name).values()
    (recipe,) = (node["inputs"] for node in nodes if node["class_type"] == "FastVideoRecipe")
    expected = "three_phases_1_3_4" if files.base_first else f"lightx2v_{name[:6]}"
    assert (files.recipe.name, recipe["recipe"]) == (expected, "auto, or as the model's authors")
    assert ("base_model" in recipe) == files.base_first and ("low_noise_model" in recipe) == files.variant.two_experts


@pytest.mark.parametrize("name", WAN_WORKFLOWS)
def test_one_node_switches_all_that_makes_it_fast(name: str) -> None:
    nodes = prompt(name)
    ((switch, given),) = ((key, node) for key, node in nodes.items() if node["class_type"].startswith("Primitive"))
    assert given["inputs"]["value"] in (True, 1.0)
    widget = "strength_model" if WAN_WORKFLOWS[name].loras else "enabled"
    fast = [node for node in nodes.values() if widget in node["inputs"]]
    assert fast and all(node["inputs"][widget] == [switch, 0] for node in fast)
    assert widget == "strength_model" or len(fast) == 2 * len(WAN_WORKFLOWS[name].transformers)  # a cache and an attention each


@pytest.mark.parametrize("name", WAN_WORKFLOWS)
def test_note_says_the_memory_that_the_engine_estimates_and_the_sizes_of_the_files(name: str) -> None:
    files = WAN_WORKFLOWS[name]
    note, chinese = notes(name)
    branches = 1 if files.loras and not files.base_first else 2
    weights, step = (bytes_ / 2**30 for bytes_ in (files.transformers[0].size * 1e9, needed(files, branches)))
    assert f"About {weights + step:.0f} GiB while it samples" in note and f"{step:.1f} for a step of this size" in note
    assert f"### Files ({sum(file.size for file in files.all):.1f} GB)" in note
    assert all(f"[{file.name}]({file.url}), {file.size:g} GB" in note for file in files.all)
    assert f"采样时约 {weights + step:.0f} GiB" in chinese and f"这个尺寸的一步 {step:.1f}" in chinese
    assert all(f"[{file.name}]({file.url})，{file.size:g} GB" in chinese for file in files.all)


@pytest.mark.parametrize("name", NAMES)
def test_note_says_the_same_in_chinese(name: str) -> None:
    """By its headings, points and figures."""
    english, chinese = notes(name)
    for pattern in (r"(?m)^#+ ", r"(?m)^- "):
        assert len(re.findall(pattern, english)) == len(re.findall(pattern, chinese))
    figures = [sorted(re.findall(r"(?<![A-Z])\d+(?:\.\d+)?", note)) for note in (english, chinese)]
    assert set(figures[0]) == set(figures[1])


def test_size_of_a_transformer_is_that_of_its_weights() -> None:
    for files in WAN_WORKFLOWS.values():
        one, two = (sum(weight.numel() for weight in network(files.variant, layers).parameters()) for layers in (1, 2))
        weights = one + (files.variant.layers - 1) * (two - one)
        for file in files.transformers:
            assert file.size == pytest.approx(weights * (2 if "fp16" in file.name else 1) / 1e9, rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_prompt_passes_comfyui_validation_once_its_files_are_there(outputs_of: Callable[..., set[str]], name: str) -> None:
    more = {"demo_auto_tune": {"FastVideoAutoTune", "PreviewImage"}, "demo_calibrate": {"FastVideoCalibrateMagCache"}}
    compared = {"FastVideoCompare", "PreviewImage"} if name in ACCELERATORS else set()
    saves = "FastVideoBatch" if name == MULTI_GPU_BATCH else "SaveVideo"
    assert outputs_of(workflow(name), prompt(name)) == {saves, "FastVideoRunReport"} | compared | more.get(name, set())


@pytest.mark.parametrize("name", [*WAN_WORKFLOWS, *ON_WORKERS])
def test_thumbnail_shows_the_graph_of_its_workflow(name: str) -> None:
    saved = np.asarray(Image.open(template_file(name, "jpg")), dtype=float)
    drawn = np.asarray(graph_thumbnail(workflow(name)), dtype=float)
    assert np.abs(saved - drawn).mean() < 4  # of 255, for JPEG's loss


@pytest.mark.parametrize("name", NAMES)
def test_every_workflow_has_a_square_thumbnail(name: str) -> None:
    thumbnail = Image.open(template_file(name, "jpg"))
    assert (thumbnail.format, thumbnail.size) == ("JPEG", (SIZE, SIZE))


def test_first_frame_of_the_demo_is_a_frame_of_its_world() -> None:
    assert np.array_equal(np.asarray(Image.open(FIRST_FRAME)), np.asarray(first_frame()))


def _corners(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    return x, y, x + width, y + height


def _box(node: dict[str, Any]) -> tuple[float, float, float, float]:
    (x, y), (width, height) = node["pos"], node["size"]
    return _corners(x, y - TITLE, width, height + TITLE)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _inside(box: tuple[float, ...], group: tuple[float, ...]) -> bool:
    return group[0] <= box[0] and group[1] <= box[1] and box[2] <= group[2] and box[3] <= group[3]

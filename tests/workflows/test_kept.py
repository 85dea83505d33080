"""Workflow files and API prompts of earlier versions run unchanged: kept copies, made by `tools.workflows.keep`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tools.comfy_in_process import ComfyInProcess
from tools.workflows.canvas import WIDGET_TYPES
from tools.workflows.demo import ACCELERATORS, DEMO_WORKFLOWS
from tools.workflows.files import FOLDER, api_prompt
from tools.workflows.keep import KEPT, SAMPLERS, captured, node_table, sampled

VERSIONS = sorted(KEPT.iterdir())
FILES = [path for version in VERSIONS for path in sorted(version.glob("api/*.json"))]
DEMOS = [path for path in FILES if path.stem in DEMO_WORKFLOWS]
ROUNDING = 5e-4
"""Of latents kept in float16, 2e-4, and of another CPU's kernels, 1e-6; relative."""


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def workflow_of(prompt: Path) -> dict[str, Any]:
    return read(prompt.parents[1] / prompt.name)


def kinds(path: Path) -> set[str]:
    return {entry["class_type"] for entry in read(path).values()}


def called(path: Path) -> str:
    return path.relative_to(KEPT).as_posix()


def test_there_are_kept_files_of_every_kind() -> None:
    assert VERSIONS
    for version in VERSIONS:
        names = {path.stem for path in FILES if path.is_relative_to(version)}
        assert names == {path.stem for path in version.glob("*.json")} - {"nodes"}
        assert names >= {"demo_t2v", "demo_i2v", "demo_compare", "demo_attention", "wan2.2_t2v_A14B"}
        sampling = {path.stem for path in DEMOS if path.is_relative_to(version) and SAMPLERS & kinds(path)}
        assert {name.partition(".")[0] for name in load_file(version / "latents.safetensors")} == sampling


@pytest.mark.parametrize("path", FILES, ids=called)
def test_a_kept_prompt_passes_comfyui_s_validation(path: Path, outputs_of: Callable[..., set[str]]) -> None:
    expected = {"SaveVideo", "FastVideoRunReport"}
    if path.stem in ACCELERATORS:
        expected |= {"FastVideoCompare", "PreviewImage"}
    assert outputs_of(workflow_of(path), read(path)) == expected


@pytest.mark.parametrize("path", FILES, ids=called)
def test_widgets_of_a_kept_workflow_mean_what_they_meant(object_info: dict[str, Any], path: Path) -> None:
    kept, made = read(path), api_prompt(workflow_of(path), object_info)
    assert made.keys() == kept.keys()
    for node, entry in kept.items():
        assert made[node]["class_type"] == entry["class_type"]
        before, now = entry["inputs"], made[node]["inputs"]
        if not entry["class_type"].startswith("FastVideo"):  # widgets of core's nodes come and go with ComfyUI
            before, now = links(before), links(now)
        assert {name: now.get(name) for name in before} == before
        kind = object_info[entry["class_type"]]["input"]
        added = {name: kind["optional"][name][1]["default"] for name in now.keys() - before.keys()}
        assert {name: now[name] for name in added} == added  # inputs that came later: as if they were not there


def links(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if isinstance(value, list)}


@pytest.mark.parametrize("version", VERSIONS, ids=called)
def test_inputs_and_outputs_of_nodes_were_only_appended(comfy: ComfyInProcess, version: Path) -> None:
    """Widgets keep their places, by which workflows hold their values; connections are known by name. What had to be given may
    have become optional."""
    now = node_table(comfy)
    for name, kept in read(version / "nodes.json").items():
        inputs = {known["name"]: known for known in now[name]["inputs"]}
        for before in kept["inputs"]:
            after = inputs.pop(before["name"])
            assert (after["type"], after.get("default")) == (before["type"], before.get("default", after.get("default")))
            assert after["optional"] >= before["optional"], f"{name}.{before['name']}"
            assert set(after.get("options", ())) >= set(before.get("options", ())), f"{name}.{before['name']}"
        assert all(known["optional"] for known in inputs.values()), name
        places = widgets(kept)
        assert widgets(now[name])[: len(places)] == places, name
        assert now[name]["outputs"][: len(kept["outputs"])] == kept["outputs"], name


def widgets(node: dict[str, Any]) -> list[str]:
    return [known["name"] for known in node["inputs"] if known["type"] in WIDGET_TYPES]


@pytest.mark.parametrize("path", DEMOS, ids=called)
def test_a_kept_demo_gives_the_latents_that_it_gave(pictures: ComfyInProcess, path: Path) -> None:
    kept = load_file(path.parents[1] / "latents.safetensors")
    made = sampled(pictures, read(path))
    assert made.keys() == {name.partition(".")[2] for name in kept if name.startswith(f"{path.stem}.")}
    for node, latents in made.items():
        before = kept[f"{path.stem}.{node}"].float()
        assert (latents - before).norm() / before.norm() < ROUNDING


@pytest.mark.parametrize("path", DEMOS, ids=called)
def test_a_kept_demo_gives_what_the_shipped_one_gives(pictures: ComfyInProcess, path: Path) -> None:
    runs = [in_four_steps(pictures, file) for file in (path, FOLDER / "api" / path.name)]
    assert len(runs[0]) == (4 if path.stem in ACCELERATORS else 2)
    for kept, shipped in zip(*runs, strict=True):
        assert torch.equal(kept, shipped)


def in_four_steps(host: ComfyInProcess, path: Path) -> list[torch.Tensor]:
    """Latents of all samplers, frames of all videos."""
    prompt = read(path)
    for entry in prompt.values():
        if "steps" in entry["inputs"]:
            entry["inputs"]["steps"] = 4
    latents, frames = sampled(host, prompt), captured(host, prompt, {"VAEDecode"})
    return [made[node] for made in (latents, frames) for node in sorted(made, key=int)]

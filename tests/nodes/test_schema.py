"""What the nodes promise to people and to saved workflows."""

from pathlib import Path
from typing import Any

import pytest

PACK = Path(__file__).resolve().parents[2]

WIDGETS = {  # in this order for good: saved workflows hold the values of widgets by place, and new ones are only appended
    "FastVideoTextEncode": ["clip", "positive", "negative"],
    "FastVideoSampler": [
        "model", "low_noise_model", "positive", "negative", "latent", "seed", "steps", "shift", "solver", "guidance_scale",
        "low_noise_guidance_scale", "boundary", "guidance_mode", "gate", "guidance_rescale", "sigmas",
        "add_noise", "start_at_step", "end_at_step", "return_with_leftover_noise", "save_state", "resume_state",
        "settings",
    ],
    "FastVideoRecipe": ["model", "low_noise_model", "recipe", "base_model"],
    "FastVideoPhase": ["model", "until", "guidance_scale", "phases"],
    "FastVideoPhaseSampler": [
        "phases", "positive", "negative", "latent", "seed", "steps", "shift", "solver", "guidance_mode", "gate",
        "guidance_rescale", "sigmas", "stop_after_phase", "save_state", "resume_state",
    ],
    "FastVideoQueueSampler": [
        "phases", "positive", "negative", "latent", "seed", "steps", "shift", "solver", "guidance_mode", "gate",
        "guidance_rescale", "sigmas", "save_state",
    ],
    "FastVideoBatch": [
        "phases", "clip", "vae", "prompts", "negative", "seeds", "width", "height", "length", "steps", "shift", "solver",
        "guidance_mode", "gate", "guidance_rescale", "filename_prefix", "fps", "start_images", "clip_vision", "sigmas",
    ],
    "FastVideoGuider": [
        "model", "low_noise_model", "positive", "negative", "guidance_scale", "low_noise_guidance_scale", "boundary",
        "guidance_mode", "gate", "guidance_rescale", "phases",
    ],
    "FastVideoLoadDiffusersModel": ["model_name", "dtype", "lora_name", "lora_strength"],
    "FastVideoLoadDemoWan": ["model", "lora_strength"],
    "FastVideoAttention": ["model", "self_attention", "cross_attention", "fold_text", "enabled"],
    "FastVideoSparseAttention": ["model", "enabled", "variant", "dense_steps", "dense_layers", "kernel", "trained_weights"],
    "FastVideoCompile": ["model", "enabled"],
    "FastVideoImageMotion": ["positive", "negative", "amplitude"],
    "FastVideoRunReport": ["report"],
    "FastVideoAutoTune": [
        "model", "low_noise_model", "positive", "negative", "vae", "latent", "cache", "target_ssim", "seed", "steps", "shift",
        "solver", "guidance_scale", "low_noise_guidance_scale", "boundary", "guidance_mode",
    ],
    "FastVideoCompare": ["reference", "candidate", "view", "amplify", "reference_report", "candidate_report"],
    "FastVideoMagCache": ["model", "enabled", "preset", "mode", "residuals_on_cpu"],
    "FastVideoDBCache": ["model", "enabled", "preset", "residuals_on_cpu"],
    "FastVideoWorkers": ["count", "device", "layout", "place"],
    "FastVideoLoadModelOnWorkers": ["workers", "model_name", "weight_dtype"],
    "FastVideoCalibrateMagCache": [
        "model", "low_noise_model", "positive", "negative", "latent", "seed", "steps", "shift", "guidance_scale",
        "low_noise_guidance_scale", "boundary", "guidance_mode",
    ],
}  # fmt: skip

AREAS = ("sampling", "conditioning", "acceleration", "loading", "analysis")
ACCELERATORS = {
    f"FastVideo{name}" for name in ("MagCache", "DBCache", "Attention", "SparseAttention", "Compile", "AutoTune", "Recipe")
}
SAMPLERS = {"FastVideoSampler", "FastVideoPhaseSampler", "FastVideoQueueSampler"}
SEARCHED = {
    **dict.fromkeys(("faster", "speed up", "accelerate", "optimize"), ACCELERATORS),
    **dict.fromkeys(("ksampler", "sampler"), SAMPLERS),
    "sage": {"FastVideoAttention"},
    "teacache": {"FastVideoMagCache"},
    "cache": {"FastVideoMagCache", "FastVideoDBCache"},
    "torch compile": {"FastVideoCompile"},
    "lightx2v": {"FastVideoRecipe"},
    "t2v": {"FastVideoSampler"},
    "multigpu": {"FastVideoWorkers", "FastVideoLoadModelOnWorkers"},
    "nag": set(),  # no node of this pack does it
}


def own_nodes(host: Any) -> dict[str, Any]:
    package = host.node_classes["FastVideoSampler"].__module__.rpartition(".")[0]
    return {name: node for name, node in host.node_classes.items() if node.__module__.startswith(package)}


def test_ids_names_and_categories(comfy: Any) -> None:
    for name, node in own_nodes(comfy).items():
        schema = node.define_schema()
        assert schema.node_id == name and name.startswith("FastVideo")
        assert schema.display_name.startswith("FastVideo ")
        assert schema.category in {f"FastVideo/{area}" for area in AREAS}
        assert schema.description and schema.search_aliases


@pytest.mark.parametrize(("words", "found"), SEARCHED.items())
def test_search_finds_the_nodes_that_do_it(comfy: Any, words: str, found: set[str]) -> None:
    named = {name for name, node in own_nodes(comfy).items() if words in node.define_schema().search_aliases}
    assert named >= found and bool(named) == bool(found)


def test_everything_has_a_tooltip(comfy: Any) -> None:
    silent = [
        f"{name}.{socket.id}"
        for name, node in own_nodes(comfy).items()
        for schema in [node.define_schema()]
        for socket in [*schema.inputs, *schema.outputs]
        if not (socket.tooltip or "").strip()
    ]
    assert silent == []


@pytest.mark.parametrize("name", WIDGETS)
def test_inputs_keep_their_places(comfy: Any, name: str) -> None:
    inputs = [given.id for given in comfy.node_classes[name].define_schema().inputs]
    assert inputs[: len(WIDGETS[name])] == WIDGETS[name]


def test_all_nodes_are_known_here(comfy: Any) -> None:
    assert own_nodes(comfy).keys() == WIDGETS.keys()

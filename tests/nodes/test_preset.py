"""Settings as the model's authors: from the recipe that names tell of, or from the published checkpoints."""

import sys
from typing import Any

import pytest
import torch
from graphs import sampler_prompt
from sampling import run_node
from test_recipe import LORA, recipe_prompt
from tiny_wan import save_wan

from fastvideo_core import VARIANTS, RequestError, recipe

AUTHORS = "as the model's authors"


def own_module(host: Any, name: str) -> Any:
    return sys.modules[f"{host.node_classes['FastVideoSampler'].__module__.rpartition('.')[0]}.native.{name}"]


def test_as_given_changes_nothing(direct: Any, load_wan: Any) -> None:
    plain, named = (run_node(direct, load_wan(), **extra)[0] for extra in ({}, {"settings": "as given"}))
    assert torch.equal(plain, named)


def test_a_distilled_file_gets_its_recipe(direct: Any) -> None:
    from comfy.sd import load_diffusion_model

    path = save_wan(direct.model_folder("diffusion_models"), "FastWan2.1-T2V-1.3B-settings", "t2v")
    model, row = load_diffusion_model(str(path)), recipe("fastwan_2.1_1.3b")
    samples, report = run_node(direct, model, settings=AUTHORS, steps=20, solver="unipc")
    by_hand = run_node(direct, model, sigmas=torch.tensor(row.levels.sigmas), solver="dmd_float64", guidance_scale=1.0)[0]
    assert torch.equal(samples, by_hand)
    (note,) = [note for note in report.notes if note.startswith("settings of recipe fastwan_2.1_1.3b")]
    assert "'FastWan' in the name" in note
    assert not any(note.startswith("By its names") for note in report.notes)


def test_two_experts_change_where_the_recipe_says(direct: Any) -> None:
    from comfy.sd import load_diffusion_model

    folder = direct.model_folder("diffusion_models")
    names = [f"wan2.2_t2v_{noise}_lightx2v_4step" for noise in ("high", "low")]
    high, low = (load_diffusion_model(str(save_wan(folder, name, "t2v", seed))) for seed, name in enumerate(names))
    _, report = run_node(direct, high, low_noise_model=low, settings=AUTHORS)
    assert [(phase.expert, phase.steps, phase.guidance_scale) for phase in report.phases] == [
        ("high_noise", 2, 1.0), ("low_noise", 2, 1.0),
    ]  # fmt: skip
    assert report.solver == "euler"


def test_a_lora_in_the_prompt_counts(prompts: Any) -> None:
    prompt = {**recipe_prompt(prompts), "7": sampler_prompt(model=["2", 0], settings=AUTHORS)["5"]}
    del prompt["5"]
    report = prompts.run(prompt, capture={"report": ("7", 1)}).captured["report"]
    assert (report.solver, len(report.step_seconds)) == ("euler", 4)
    assert any(LORA in note for note in report.notes)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_published_checkpoint_has_its_authors_settings(direct: Any, name: str) -> None:
    row, module = VARIANTS[name], own_module(direct, "preset")
    facts = own_module(direct, "facts").WanFacts(
        name="WAN21", in_channels=row.in_channels, latent_channels=row.latent_channels, dim=row.dim, layers=row.layers,
        text_dim=4096, image_tokens=row.image_tokens, plain=True,
    )  # fmt: skip
    assert module.published(facts, row.two_experts, row.height // row.spatial, row.width // row.spatial) is row
    named = module.published_by_name(facts, row.two_experts, [f"{name}_fp8_scaled.safetensors"])
    assert named is row  # by 480p or 720p, where both are of these measures
    preset = module.of_variant(row)
    assert preset.values["steps"] == row.steps and preset.values["shift"] == row.shift and preset.values["solver"] == "unipc"
    assert preset.values["boundary"] == row.boundary and preset.values["guidance_scale"] == row.guidance_scale
    assert preset.values["low_noise_guidance_scale"] == (row.low_noise_guidance_scale or row.guidance_scale)


def test_what_is_not_published_is_refused(direct: Any, load_wan: Any) -> None:
    with pytest.raises(RequestError, match=r"settings is .as the model's authors., and neither .* 2 blocks of width 64"):
        run_node(direct, load_wan(), settings=AUTHORS)
    with pytest.raises(RequestError, match="sigmas is connected and settings is"):
        run_node(direct, load_wan(), settings=AUTHORS, sigmas=torch.tensor([1.0, 0.5, 0.0]))
    with pytest.raises(RequestError, match=r"The settings input got 'mine': use one of as given, as the model's authors"):
        run_node(direct, load_wan(), settings="mine")

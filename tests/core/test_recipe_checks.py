"""What contradicts a recipe is told before the run, each with what to change."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_transformer as files
from lora_files import written
from state_cases import generation, request
from tiny_model import model_of

from fastvideo_core import RECIPES, SamplingRequest, apply_lora, contradictions, recipe, shifted_sigmas, with_dbcache
from fastvideo_core.attention.sparse import SparseSchedule, VSASettings


def changed(name: str, **changes: Any) -> SamplingRequest:
    """As the recipe asks, but for these."""
    asked = recipe(name).request(loras=["fast"] if recipe(name).has_base else [])
    return replace(asked, **changes)


@pytest.mark.parametrize("name", [name for name, row in RECIPES.items() if not row.refused])
def test_a_recipe_does_not_contradict_itself(name: str) -> None:
    assert contradictions(recipe(name), changed(name)) == ()


def two(name: str, high: float, low: float, boundary: float) -> SamplingRequest:
    row = recipe(name)
    return SamplingRequest(
        steps=row.levels.steps, shift=5.0, sigmas=row.levels.sigmas, guidance_scale=high, low_noise_guidance_scale=low,
        boundary=boundary, solver=row.solver,
    )  # fmt: skip


def test_guidance_is_told() -> None:
    (told,) = contradictions(recipe("lightx2v_wan2.2"), two("lightx2v_wan2.2", 3.5, 1.0, 0.875))
    assert told.startswith("guidance_scale is 3.5, and lightx2v 4 steps, Wan 2.2") and told.endswith("Set guidance_scale to 1.")
    (told,) = contradictions(recipe("lightx2v_wan2.2"), two("lightx2v_wan2.2", 1.0, 2.0, 0.9))
    assert told.startswith("guidance_scale is 2,")


def test_guidance_of_a_base_phase_is_as_it_should_be() -> None:
    row = recipe("three_phases_1_4_3")
    settings = [replace(part, guidance_scale=3.5) for part in row.settings(["fast"])]
    (told,) = contradictions(row, changed(row.name, phases=settings))
    assert told.startswith("guidance_scale is 3.5, and three phases")


@pytest.mark.parametrize(
    ("name", "solver", "words"),
    [
        ("lightx2v_wan2.1", "unipc", "solver is unipc, and .* goes straight to the next level: set solver to euler"),
        ("lightx2v_wan2.1", "dmd", "solver is dmd, and .* set solver to euler"),
        ("fastwan_2.1_1.3b", "euler", "solver is euler, and .* adds fresh noise after each step: set solver to dmd_float64"),
        ("turbo_t2v", "dpmpp_2m", "set solver to dmd_float64"),
    ],
)
def test_the_wrong_rule_is_told(name: str, solver: str, words: str) -> None:
    (told,) = contradictions(recipe(name), changed(name, solver=solver))
    assert re.search(words, told)


def test_another_precision_is_the_same_rule() -> None:
    assert contradictions(recipe("turbo_t2v"), changed("turbo_t2v", solver="dmd")) == ()


def test_steps_and_levels_are_told() -> None:
    row = recipe("lightx2v_wan2.1")
    (told,) = contradictions(row, SamplingRequest(steps=20, shift=5.0, guidance_scale=1.0, solver="euler"))
    assert told.startswith("There are 20 steps, and") and "distilled for 4: give it the noise levels 1, 0.9375, 0.8333, " in told
    (told,) = contradictions(row, SamplingRequest(steps=4, shift=3.0, guidance_scale=1.0, solver="euler"))
    assert told.startswith("A step begins at noise level 0.9 where") and "has 0.9375" in told
    assert contradictions(row, SamplingRequest(steps=4, shift=5.0, guidance_scale=1.0, solver="euler")) == ()


def test_a_switch_at_another_step_is_told() -> None:
    (told,) = contradictions(recipe("lightx2v_wan2.2"), two("lightx2v_wan2.2", 1.0, 1.0, 0.8))
    assert told.startswith("The low-noise expert begins at noise level 0.625") and told.endswith("set boundary to 0.875.")


def test_caches_and_sparse_attention_are_told_with_what_helps() -> None:
    cache, sparse = contradictions(recipe("lightx2v_wan2.1"), changed("lightx2v_wan2.1"), cache=True, sparse=True)
    assert "A faster attention backend and compiled blocks help instead." in cache
    assert "was not trained with it" in sparse
    assert len(contradictions(recipe("fastwan_2.1_1.3b"), changed("fastwan_2.1_1.3b"), sparse=True)) == 0
    assert len(contradictions(recipe("fusionx_10"), changed("fusionx_10"), cache=True, sparse=True)) == 0


def with_lora(tmp_path: Path, name: str, strength: float = 1.0) -> Any:
    network = tiny.t2v()
    path = files.save(written(files.pairs(tiny.t2v()), "musubi", 6.0), tmp_path / name, None)
    apply_lora(network, path, strength)
    return replace(model_of("t2v"), transformers={"single": network})


def test_a_generation_tells_it_by_the_names_of_its_loras(tmp_path: Path) -> None:
    model = with_lora(tmp_path, "lightx2v_T2V_14B_cfg_step_distill_lora.safetensors")
    sparse = SparseSchedule(settings=VSASettings(sparsity=0.5, tile=(1, 2, 2)))
    running = generation("t2v", request(), model=model, cache=with_dbcache(), sparse=sparse)
    told = running.contradictions()
    assert all(sentence.startswith("By its names the model is one of lightx2v_wan2.1 (") for sentence in told)
    for words in (
        "guidance_scale is 3",
        "solver is unipc",
        "There are 6 steps",
        "step cache is on",
        "Sparse self-attention is on",
    ):
        assert sum(words in sentence for sentence in told) == 1
    list(running)
    assert set(told) <= set(running.report().notes)


def test_a_generation_that_fits_or_is_none_of_a_recipe_tells_nothing(tmp_path: Path) -> None:
    fitting = SamplingRequest(steps=4, shift=5.0, guidance_scale=1.0, solver="euler")
    assert generation("t2v", fitting, model=with_lora(tmp_path, "a_lightx2v.safetensors")).contradictions() == ()
    assert generation("t2v", request(), model=with_lora(tmp_path, "a_style.safetensors")).contradictions() == ()
    assert generation("t2v", request(), model=with_lora(tmp_path, "lightx2v_0.safetensors", 0.0)).contradictions() == ()
    assert shifted_sigmas(4, 5.0) == recipe("lightx2v_wan2.1").levels.sigmas

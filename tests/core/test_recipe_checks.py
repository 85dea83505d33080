"""What contradicts a recipe is told before the run, each with what to change."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_transformer as files
import torch
from lora_files import written
from magcache_run import SETTINGS, flat_table
from state_cases import generation, request
from tiny_model import model_of

from fastvideo_core import (
    RECIPES,
    Recipe,
    SamplingRequest,
    apply_lora,
    contradictions,
    recipe,
    shifted_sigmas,
    with_dbcache,
    with_magcache,
)
from fastvideo_core.attention.sparse import SparseSchedule, VSASettings


def changed(name: str, **changes: Any) -> SamplingRequest:
    """As the recipe asks, but for these."""
    asked = recipe(name).request(loras=["fast"] if recipe(name).has_base else [])
    return replace(asked, **changes)


def told_of(row: Recipe, asked: SamplingRequest, **on: bool) -> tuple[str, ...]:
    return contradictions(row, asked.plan(), asked.solver, **on)


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_recipe_does_not_contradict_itself(name: str) -> None:
    assert told_of(recipe(name), changed(name)) == ()


def two(name: str, high: float, low: float, boundary: float) -> SamplingRequest:
    row = recipe(name)
    return SamplingRequest(
        steps=row.levels.steps, shift=5.0, sigmas=row.levels.sigmas, guidance_scale=high, low_noise_guidance_scale=low,
        boundary=boundary, solver=row.solver,
    )  # fmt: skip


def test_guidance_is_told() -> None:
    (told,) = told_of(recipe("lightx2v_wan2.2"), two("lightx2v_wan2.2", 3.5, 1.0, 0.875))
    assert told.startswith("guidance_scale is 3.5, and lightx2v 4 steps, Wan 2.2") and told.endswith("Set guidance_scale to 1.")
    (told,) = told_of(recipe("lightx2v_wan2.2"), two("lightx2v_wan2.2", 1.0, 2.0, 0.9))
    assert told.startswith("guidance_scale is 2,")


def test_guidance_of_a_base_phase_is_as_it_should_be() -> None:
    row = recipe("three_phases_1_4_3")
    settings = [replace(part, guidance_scale=3.5) for part in row.settings(["fast"])]
    (told,) = told_of(row, changed(row.name, phases=settings))
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
    (told,) = told_of(recipe(name), changed(name, solver=solver))
    assert re.search(words, told)


def test_another_precision_is_the_same_rule() -> None:
    assert told_of(recipe("turbo_t2v"), changed("turbo_t2v", solver="dmd")) == ()


def test_steps_and_levels_are_told() -> None:
    row = recipe("lightx2v_wan2.1")
    (told,) = told_of(row, SamplingRequest(steps=20, shift=5.0, guidance_scale=1.0, solver="euler"))
    assert told.startswith("There are 20 steps, and") and "distilled for 4: give it the noise levels 1, 0.9375, 0.8333, " in told
    (told,) = told_of(row, SamplingRequest(steps=4, shift=3.0, guidance_scale=1.0, solver="euler"))
    assert told.startswith("A step begins at noise level 0.9 where") and "has 0.9375" in told
    assert told_of(row, SamplingRequest(steps=4, shift=5.0, guidance_scale=1.0, solver="euler")) == ()


def test_a_switch_at_another_step_is_told() -> None:
    (told,) = told_of(recipe("lightx2v_wan2.2"), two("lightx2v_wan2.2", 1.0, 1.0, 0.8))
    assert told.startswith("The low-noise expert begins at noise level 0.625") and told.endswith("set boundary to 0.875.")


def test_caches_and_sparse_attention_are_told_with_what_helps() -> None:
    cache, sparse = told_of(recipe("lightx2v_wan2.1"), changed("lightx2v_wan2.1"), cache=True, sparse=True)
    assert "a faster attention backend and compiled blocks help instead." in cache
    assert "was not trained with it" in sparse
    assert len(told_of(recipe("fastwan_2.1_1.3b"), changed("fastwan_2.1_1.3b"), sparse=True)) == 0
    assert len(told_of(recipe("fusionx_10"), changed("fusionx_10"), cache=True, sparse=True)) == 0


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


CACHES = {"dbcache": with_dbcache(), "magcache": with_magcache(SETTINGS, table=flat_table(request().plan()))}


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES)
def test_a_cache_stands_aside_in_the_steps_of_the_recipe(tmp_path: Path, cache: Any) -> None:
    asked = SamplingRequest(steps=4, shift=5.0, guidance_scale=3.0, solver="euler")
    model = with_lora(tmp_path, "a_lightx2v.safetensors")
    plain, running = generation("t2v", asked, model=model), generation("t2v", asked, model=model, cache=cache)
    list(plain)
    reason = running.cache.report().aside
    assert reason.startswith("by its names the model is one of lightx2v_wan2.1 (") and "help instead" in reason
    assert running.plan().text().endswith(f"stands aside: {reason}") and running.plan().phases == ()
    list(running)
    assert torch.equal(running.latents, plain.latents)
    (told,) = running.report().caches
    assert (told.aside, told.blocks_asked) == (reason, 0)
    longer = generation("t2v", replace(asked, steps=12), model=model, cache=with_dbcache())
    assert longer.cache.report().aside == ""


def test_a_cache_stands_aside_for_a_lora_that_came_before_the_first_step(tmp_path: Path) -> None:
    model = replace(model_of("t2v"), transformers={"single": tiny.t2v()})
    asked = SamplingRequest(steps=4, shift=5.0, guidance_scale=3.0, solver="euler")
    running = generation("t2v", asked, model=model, cache=with_dbcache())
    path = files.save(written(files.pairs(tiny.t2v()), "musubi", 6.0), tmp_path / "lightx2v.safetensors", None)
    apply_lora(model.transformers["single"], path)
    list(running)
    (told,) = running.report().caches
    assert told.aside.startswith("by its names") and told.blocks_asked == 0


def test_a_generation_that_fits_or_is_none_of_a_recipe_tells_nothing(tmp_path: Path) -> None:
    fitting = SamplingRequest(steps=4, shift=5.0, guidance_scale=1.0, solver="euler")
    assert generation("t2v", fitting, model=with_lora(tmp_path, "a_lightx2v.safetensors")).contradictions() == ()
    assert generation("t2v", request(), model=with_lora(tmp_path, "a_style.safetensors")).contradictions() == ()
    assert generation("t2v", request(), model=with_lora(tmp_path, "lightx2v_0.safetensors", 0.0)).contradictions() == ()
    assert shifted_sigmas(4, 5.0) == recipe("lightx2v_wan2.1").levels.sigmas

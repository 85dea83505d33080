"""Noise levels and masks as core computes them: out of their range by rounding, and taken for what they are."""

from importlib import import_module
from typing import Any

import pytest
import torch
from sampling import (
    conditions_of,
    core_guider,
    core_sampler,
    latent_of,
    normal,
    relative_error,
    run_guider,
    run_ksampler,
    run_node,
    shifted,
)

SHIFTS = [1.32, 2.14, 4.03, 8.06]  # core's `simple` begins at 1.0000001 there


def core_sigmas(model: Any, shift: float, steps: int = 8) -> torch.Tensor:
    from comfy.samplers import calculate_sigmas

    return calculate_sigmas(shifted(model, shift).get_model_object("model_sampling"), "simple", steps)


@pytest.mark.parametrize("shift", SHIFTS)
def test_the_sampler_takes_cores_own_noise_levels(direct: Any, load_wan: Any, shift: float) -> None:
    model, sigmas = load_wan(), core_sigmas(load_wan(), shift)
    assert float(sigmas[0]) != 1.0  # what this test is about
    video = run_node(direct, model, sigmas=sigmas)[0]
    assert relative_error(video, run_ksampler(model, shift=shift)) < 1e-4


@pytest.mark.parametrize("solver", ["unipc", "dpmpp_2m", "dmd"])
def test_every_solver_runs_on_them(direct: Any, load_wan: Any, solver: str) -> None:
    video = run_node(direct, load_wan(), sigmas=core_sigmas(load_wan(), 8.06), solver=solver)[0]
    assert bool(video.isfinite().all())


def test_the_guider_and_step_caches_take_them(direct: Any, load_wan: Any) -> None:
    model, sigmas = load_wan(), core_sigmas(load_wan(), 8.06)
    positive, negative = conditions_of("t2v")
    cached = direct.node_classes["FastVideoDBCache"].execute(model, True, {"preset": "auto"}, False).args[0]
    guidance = {"guidance_scale": 4.0, "low_noise_guidance_scale": 3.0, "boundary": 0.875, "guidance_mode": "auto", "gate": 1.0}
    node = direct.node_classes["FastVideoGuider"]
    guider = node.execute(positive, negative, model=cached, guidance_rescale=0.0, **guidance).args[0]
    assert bool(run_guider(guider, core_sampler("euler"), sigmas).isfinite().all())


@pytest.mark.parametrize(("level", "given"), [(0.0, True), (1e-8, True), (0.5, False), (1.0, False)])
def test_a_mask_of_the_first_frame_may_be_a_hair_above_0(direct: Any, load_wan: Any, level: float, given: bool) -> None:
    """As resizing leaves it."""
    package = direct.node_classes["FastVideoSampler"].__module__.rpartition(".")[0]
    generation_of = import_module(f"{package}.native.generation").generation_of
    mask = latent_of("ti2v")["noise_mask"]
    mask[:, :, :1] = level
    guider = core_guider(load_wan("ti2v"), "ti2v")
    generation = generation_of(guider, normal(0, 1, 48, 3, 8, 8), torch.tensor([1.0, 0.5, 1e-9]), mask)
    assert (generation.first_frame, generation.partial) == (given, False)

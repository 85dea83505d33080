"""Whole generations against diffusers' own pipelines, on the same tiny real networks, VAEs and CLIP encoder.

The last tests show by how much the reference is off by itself, and where it departs from what was asked.
"""

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from pipeline_cases import (
    CASES,
    Case,
    GivenUniPC,
    first_and_last_frame_to_video,
    given_scheduler,
    image_to_video_5b,
    image_to_video_clip,
    text_to_video,
    text_to_video_two_experts,
)
from tiny import relative_error

from fastvideo_core import Conditioning, GuidanceSettings
from fastvideo_core.schedule import shift_sigma

TOLERANCE = 1e-5
"""Relative L2 error in float32: rounding of two orders of summation over some steps; measured 5e-7 to 1.5e-6."""


@pytest.mark.parametrize("mode", ["sequential", "batched"])
@pytest.mark.parametrize("solver", ["unipc", "euler"])
@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_latents_equal_those_of_diffusers_pipeline(make: Any, solver: str, mode: str) -> None:
    case = make()
    request = case.request(solver=solver, guidance=GuidanceSettings(mode=mode))
    assert relative_error(case.ours(request), case.theirs(request)) <= TOLERANCE


@pytest.mark.parametrize("make", [text_to_video, image_to_video_clip, image_to_video_5b], ids=lambda make: make.__name__)
def test_latents_equal_those_of_diffusers_pipeline_without_guidance(make: Any) -> None:
    case = make()
    request = case.request(guidance_scale=1.0)
    assert relative_error(case.ours(request), case.theirs(request)) <= TOLERANCE


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_latents_equal_those_of_diffusers_pipeline_for_few_and_many_steps(steps: int) -> None:
    case = text_to_video()
    request = case.request(steps=steps, shift=8.0)
    assert relative_error(case.ours(request), case.theirs(request)) <= TOLERANCE


def test_the_conditions_matter_to_the_result() -> None:
    # Without this, networks that ignore what they are told would pass the parity tests.
    case = first_and_last_frame_to_video()
    request, whole = case.request(), case.ours(case.request())
    for name in ("positive", "negative", "image", "image_tokens"):
        changed = Case(case.networks, replaced(case.condition, name), case.vae)
        assert relative_error(changed.ours(request), whole) > 1e-3, name


def replaced(condition: Conditioning, name: str) -> Conditioning:
    parts = {part: getattr(condition, part) for part in ("positive", "negative", "image", "image_tokens")}
    return Conditioning(**(parts | {name: parts[name].flip(-1)}))


def test_the_given_first_frame_is_in_the_result_unchanged() -> None:
    case = image_to_video_5b()
    assert case.condition.first_frame is not None
    assert torch.equal(case.ours(case.request())[:, :, :1], case.condition.first_frame.latents)


def test_reference_off_its_timesteps_are_cut_to_integers() -> None:
    case = text_to_video()
    request = case.request()
    scheduler = given_scheduler("unipc", request.plan().sigmas)
    cut = relative_error(case.theirs(request, CutTimesteps.of(scheduler)), case.ours(request))
    assert 3e-3 < cut < 3e-2  # 0.99 % here


class CutTimesteps(GivenUniPC):
    """Our noise levels with diffusers' own timesteps: those of its UniPC, int64."""

    @classmethod
    def of(cls, scheduler: GivenUniPC) -> "CutTimesteps":
        made = cls.from_config(scheduler.config)
        made.levels = scheduler.levels
        return made

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        UniPCMultistepScheduler.set_timesteps(self, sigmas=np.array(self.levels[:-1]), device=device)


def test_reference_off_its_unipc_ends_above_the_official_last_level() -> None:
    # linspace(1, 1/1000) instead of linspace(1, 0): Wan's 40 steps at shift 12 end with .2426 instead of .2353.
    stock = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=12.0)
    stock.set_timesteps(40)
    official = shift_sigma(1 / 40, 12.0)
    assert float(stock.sigmas[39]) - official == pytest.approx(0.0071, abs=2e-4)


def test_reference_off_its_flow_euler_shifts_twice() -> None:
    stock = FlowMatchEulerDiscreteScheduler(shift=5.0)
    stock.set_timesteps(4)
    # Its range ends at shift(1/1000), and the evenly spaced levels between are shifted once more.
    even = np.linspace(1, shift_sigma(1 / 1000, 5.0), 4)
    np.testing.assert_allclose(stock.sigmas[:-1], [shift_sigma(float(level), 5.0) for level in even], atol=1e-6)
    case = text_to_video()
    request = case.request(steps=4, solver="euler")
    assert relative_error(case.theirs(request, stock), case.ours(request)) > 0.03  # 6.8 % here


def test_reference_off_it_guides_by_the_first_scale_alone() -> None:
    # Asked for no guidance at high noise and 3 at low noise, it gives no guidance at all.
    case = text_to_video_two_experts()
    asked = case.request(guidance_scale=1.0, low_noise_guidance_scale=3.0)
    without = case.request(guidance_scale=1.0, low_noise_guidance_scale=1.0)
    assert relative_error(case.theirs(asked), case.ours(without)) <= TOLERANCE
    assert relative_error(case.theirs(asked), case.ours(asked)) > 1e-2


def test_reference_off_it_runs_a_negative_branch_that_scale_1_cancels() -> None:
    case = text_to_video_two_experts()
    request = case.request(guidance_scale=3.0, low_noise_guidance_scale=1.0)
    with tiny.recorded_batches(case.networks["low_noise"]) as ours:
        video = case.ours(request)
    with tiny.recorded_batches(case.networks["low_noise"]) as theirs:
        assert relative_error(case.theirs(request), video) <= TOLERANCE
    assert len(theirs) == 2 * len(ours)

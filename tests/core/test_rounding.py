"""What comes through float32 or a resize: out of its range by rounding it is the end of the range, by more it is refused."""

import math

import numpy
import pytest
import torch
from tiny_model import model_of, picture, small

from fastvideo_core import (
    ConditioningError,
    Guidance,
    GuidanceSettings,
    MagCacheSettings,
    RequestError,
    SamplingRequest,
    compare,
    plan,
    plan_part,
    shifted_sigmas,
)
from fastvideo_core.checks import part_of
from fastvideo_core.schedule import Phase

HAIR = 1.0000001  # what float32 makes of 1 in shifting and dividing


@pytest.mark.parametrize("shift", [1.32, 2.14, 4.03, 8.06])
def test_noise_levels_that_begin_a_hair_above_1(shift: float) -> None:
    """As core computes them: in float32, over a table, with shifts that give 1.0000001."""
    levels = [HAIR, *(float(numpy.float32(level)) for level in shifted_sigmas(8, shift)[1:])]
    assert plan(levels, 5.0).sigmas[0] == 1.0
    assert plan_part(levels[:3], 5.0, 0.5).sigmas[0] == 1.0
    assert SamplingRequest(steps=8, shift=5.0, guidance_scale=5.0, sigmas=levels).plan().sigmas[0] == 1.0


def test_noise_levels_that_end_a_hair_below_0() -> None:
    assert plan((1.0, 0.5, -1e-8), 5.0).sigmas == (1.0, 0.5, 0.0)


@pytest.mark.parametrize("levels", [(1.001, 0.5, 0.0), (1.0, 0.5, -0.001), (math.nan, 0.5, 0.0), (math.inf, 0.5, 0.0)])
def test_noise_levels_that_are_out_by_more(levels: tuple[float, ...]) -> None:
    with pytest.raises(RequestError, match=rf"The sigmas run from {levels[0]:g} to {levels[-1]:g}: .* lie in 0\.\.1"):
        plan(levels, 5.0)


def test_shares_that_are_out_by_rounding_are_the_end() -> None:
    settings = GuidanceSettings(gate=HAIR, rescale=-1e-9)
    assert (settings.gate, settings.rescale) == (1.0, 0.0)


@pytest.mark.parametrize("steps", [5, 8, 20, 25, 40, 100, 1000])
def test_a_part_of_the_steps_is_the_same_in_every_precision(steps: int) -> None:
    """k of n steps, k / n having gone through float32 or a widget's steps of 0.05."""
    for k in range(steps + 1):
        fraction = k / steps
        assert part_of(steps, fraction) == part_of(steps, float(numpy.float32(fraction))) == k
        guidance = Guidance(plan(shifted_sigmas(steps, 1.0), 5.0), GuidanceSettings(gate=float(numpy.float32(fraction))))
        assert guidance.gate_step == k
        phase = Phase(expert="single", start=0, stop=steps, guidance_scale=5.0)
        assert MagCacheSettings(threshold=0.1, max_skips=1, retention=fraction).retained_steps(phase) == k


def test_guidance_a_hair_off_1_is_off() -> None:
    """As in core, which asks `isclose`: half the work."""
    high, low = plan(shifted_sigmas(10, 5.0), HAIR, 3.0, 0.875).phases
    assert (high.guided, low.guided) == (False, True)


def test_frames_a_hair_above_1_are_compared() -> None:
    frames = torch.rand(2, 3, 16, 16).clamp(0.1, 0.9)
    frames[0, 0, 0, :2] = torch.tensor([HAIR, -1e-7])
    exact = frames.clamp(0, 1)
    assert compare(frames, exact).mean.psnr == math.inf
    assert compare(255 * frames, 255 * exact, 255.0).mean.psnr == math.inf
    half = frames.half()
    half[0, 0, 0, 0] = 1.001  # the next number after 1
    assert compare(half, half.clamp(0, 1)).mean.psnr == math.inf
    with pytest.raises(RequestError, match=r"The first video has values from -0\.01 to 1, outside of 0\.\.1"):
        compare(torch.cat([exact[:1], exact[1:] - 0.11]).clamp(-0.01, 1), exact)


def test_a_given_image_a_hair_above_1() -> None:
    ours = model_of("i2v clip")
    size, image = small(ours), picture(small(ours)).clamp(0, 1)
    image[0, 0, 0, 0] = 1.0
    exact, above = ours.condition("a cat", "", size, image).image, ours.condition("a cat", "", size, HAIR * image).image
    assert exact is not None and above is not None
    torch.testing.assert_close(exact, above, rtol=0, atol=1e-5)
    with pytest.raises(ConditioningError, match=r"values from .* to 1\.05; they must lie in 0\.\.1.*clamp\(0, 1\)"):
        ours.condition("a cat", "", size, image.index_fill(3, torch.tensor([5]), 1.05))


def test_what_lies_inside_stays_as_it_is() -> None:
    assert GuidanceSettings(gate=0.999995).gate == 0.999995
    assert GuidanceSettings(rescale=0.000005).rescale == 0.000005

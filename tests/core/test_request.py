"""What a person asks for is checked before anything is loaded; each error names the value and the remedy."""

import dataclasses
import re

import pytest

from fastvideo_core import GuidanceSettings, RequestError, SamplingRequest, VideoSize, plan, shifted_sigmas


def request(**changes: object) -> SamplingRequest:
    return SamplingRequest(**({"steps": 20, "shift": 5.0, "guidance_scale": 5.0} | changes))


@pytest.mark.parametrize(
    ("size", "compression", "shape"),
    [
        # (frames - 1) / 4 + 1 latent frames; pixels / 8, or / 16 for Wan2.2 TI2V-5B.
        (VideoSize(width=832, height=480, frames=81), 16, (1, 16, 21, 60, 104)),
        (VideoSize(width=1280, height=704, frames=121, spatial=16), 48, (1, 48, 31, 44, 80)),
        (VideoSize(width=16, height=16, frames=1), 16, (1, 16, 1, 2, 2)),
    ],
)
def test_the_latent_shape_follows_the_vae(size: VideoSize, compression: int, shape: tuple[int, ...]) -> None:
    assert size.latent_shape(compression) == shape
    assert size.latent_shape(compression, batch=3)[0] == 3


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"width": 830}, "width is 830: it must be a multiple of 16 pixels. The nearest is 832."),
        ({"height": 0}, "height is 0: it must be a multiple of 16 pixels. The nearest is 16."),
        ({"height": -480}, "height is -480: it must be a multiple of 16 pixels. The nearest is 16."),
        ({"height": 720, "spatial": 16}, "height is 720: it must be a multiple of 32 pixels. The nearest is"),
        ({"frames": 80}, "frames is 80: it must be 4 * k + 1 (1, 5, 9, ...). The nearest is 81."),
        ({"frames": 0}, "frames is 0: it must be 4 * k + 1 (1, 5, 9, ...). The nearest is 1."),
    ],
)
def test_a_size_off_the_grid_is_refused_with_the_nearest_good_one(changes: dict[str, int], text: str) -> None:
    with pytest.raises(RequestError, match=re.escape(text)):
        VideoSize(**({"width": 832, "height": 480, "frames": 81} | changes))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"solver": "heun"}, "solver is 'heun': use one of euler, unipc, dpmpp_2m, dmd, euler_float64, dmd_float64."),
        ({"seed": -1}, "seed is -1: it must lie in 0 .. 2**64 - 1."),
        ({"seed": 2**64}, "it must lie in 0 .. 2**64 - 1."),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan: it must be a finite number"),
        ({"low_noise_guidance_scale": float("inf")}, "low_noise_guidance_scale is inf: it must be a finite number"),
        ({"low_noise_guidance_scale": 3.0}, "low_noise_guidance_scale is 3 and there is no boundary, so no low-noise expert"),
        ({"steps": 20, "sigmas": (0.9, 0.5, 0.0)}, "3 sigmas were given for 20 steps; it must be one more than steps"),
    ],
)
def test_a_request_that_cannot_run_is_refused(changes: dict[str, object], text: str) -> None:
    with pytest.raises(RequestError, match=re.escape(text)):
        request(**changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"mode": "parallel"}, "guidance mode is 'parallel': use one of auto, batched, sequential."),
        ({"gate": 1.5}, "gate is 1.5: it is the fraction of steps with both branches, 0 to 1 (1 is off)."),
        ({"gate": float("nan")}, "gate is nan"),
        ({"rescale": -0.1}, "guidance rescale is -0.1: it must lie between 0 (off) and 1."),
        ({"gate": 0.5, "rescale": 0.7}, "guidance rescale 0.7 with gate 0.5: rescale needs a fresh negative branch"),
    ],
)
def test_guidance_settings_that_contradict_themselves_are_refused(changes: dict[str, object], text: str) -> None:
    with pytest.raises(RequestError, match=re.escape(text)):
        GuidanceSettings(**changes)


def test_the_plan_follows_steps_shift_and_boundary() -> None:
    asked = request(steps=40, shift=12.0, guidance_scale=4.0, low_noise_guidance_scale=3.0, boundary=0.875)
    assert asked.plan() == plan(shifted_sigmas(40, 12.0), 4.0, 3.0, 0.875)


def test_given_sigmas_replace_those_of_steps_and_shift() -> None:
    assert request(steps=2, sigmas=(0.9, 0.5, 0.0)).plan() == plan((0.9, 0.5, 0.0), 5.0)


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        request().steps = 5  # type: ignore[misc]

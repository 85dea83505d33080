"""How videos move: rendered clips of known speed, still ones, brightness and colours in closed form; the global pan against
scikit-image's phase correlation, colours against its L*a*b*."""

import json
import math

import pytest
import torch
from skimage.color import deltaE_cie76, rgb2lab
from skimage.registration import phase_cross_correlation
from tiny import normal
from torch import Tensor

from fastvideo_core import RequestError
from fastvideo_core.pictures import frame_panels
from fastvideo_core.quality import Comparison, FrameQuality, MotionComparison, account_json, compare, motion, table
from fastvideo_core.quality.flow import flow
from tools.demo_model.world import FRAMES, SHAPES, Scene, render

WITHIN = 0.05


def texture(dx: float, dy: float, height: int = 64, width: int = 64, frames: int = 6) -> Tensor:
    """A texture of 60 waves that moves by (dx, dy) pixels per frame, exactly, over the frame's borders: (T, 3, H, W) in 0..1."""
    waves = 0.25 * normal((60, 2), 1).double()
    phases = 2 * math.pi * torch.rand(3, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    clip = []
    for time in range(frames):
        places = torch.tensordot(waves, torch.stack([x - dx * time, y - dy * time]), dims=1)
        clip.append(torch.stack([torch.sin(places + phase[:, None, None]).sum(0) for phase in phases]))
    return (0.5 + torch.stack(clip) / 31).clamp(0, 1).float()


def shape_clip(shape: str, kind: str = "left", travel: float = 16.0, growth: float = 2.0) -> Tensor:
    scene = Scene(shape, "red", "black", kind, (31.0, 33.0), 10.0, travel, growth)
    return (render([scene])[0].transpose(0, 1) + 1) / 2


def square_clip(speed: float, ground: Tensor) -> Tensor:
    """A textured square of 41 pixels that moves to the right over a ground that stands still."""
    moving, across = texture(speed, 0, 96, 96), torch.arange(96.0)
    rows = (20.5 - (across - 48).abs()).clamp(0, 1)
    covered = torch.stack(
        [rows[:, None] * (20.5 - (across - 40 - speed * time).abs()).clamp(0, 1) for time in range(len(moving))]
    )
    return moving * covered[:, None] + ground * (1 - covered[:, None])


def grey(levels: list[float]) -> Tensor:
    return torch.tensor(levels)[:, None, None, None].expand(-1, 3, 16, 16)


@pytest.mark.parametrize("kind", ["left", "down"])
@pytest.mark.parametrize("travel", [16.0, 24.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_the_demo_world_move_at_their_speed(shape: str, travel: float, kind: str) -> None:
    assert motion(shape_clip(shape, kind, travel)).magnitude == pytest.approx(travel / (FRAMES - 1), rel=WITHIN)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_grows_moves_and_what_is_still_does_not(shape: str) -> None:
    growing, still = motion(shape_clip(shape, "growing")), motion(shape_clip(shape, "still"))
    assert growing.magnitude is not None and growing.magnitude > 0.4 and growing.still_share == 0
    assert (still.magnitude, still.still_share) == (0, 1)


@pytest.mark.parametrize("speed", [(0.5, 0.0), (-1.5, 0.7), (0.0, 4.0), (9.0, 3.0)])
def test_a_pan_moves_at_its_speed(speed: tuple[float, float]) -> None:
    assert motion(texture(*speed)).magnitude == pytest.approx(math.hypot(*speed), rel=WITHIN)


def test_a_large_pan_moves_at_its_speed_and_is_what_phase_correlation_finds() -> None:
    clip = texture(12.5, -6.0, 300, 520, 2)
    y, x = phase_cross_correlation(clip[0, 0].numpy(), clip[1, 0].numpy(), upsample_factor=20)[0]
    assert (-x, -y) == pytest.approx((12.5, -6.0), abs=0.1)
    ((found, visible),) = flow(clip)
    assert found.movedim(1, -1)[visible[:, 0]].median(0).values.tolist() == pytest.approx([-float(x), -float(y)], abs=0.15)
    assert motion(clip).magnitude == pytest.approx(math.hypot(12.5, 6), rel=WITHIN)


@pytest.mark.parametrize("speed", [0.5, 1.0, 4.0])
def test_a_textured_square_moves_at_its_speed(speed: float) -> None:
    assert motion(square_clip(speed, torch.full((3, 96, 96), 0.5))).magnitude == pytest.approx(speed, rel=WITHIN)


def test_over_a_texture_that_stands_still_twice_the_speed_is_a_ratio_of_two() -> None:
    ground = texture(0, 0, 96, 96, 1).flip(-1)[0]
    slow, fast = (motion(square_clip(speed, ground)) for speed in (1.0, 2.0))
    assert MotionComparison(reference=slow, candidate=fast).ratio == pytest.approx(2, rel=WITHIN)
    assert slow.magnitude is not None and slow.magnitude < 0.3 and slow.pairs[0].fastest > 0.9 and slow.still_share == 0


@pytest.mark.parametrize("make", [lambda speed: texture(speed, 0), lambda speed: shape_clip("circle", "up", 12 * speed)])
def test_twice_the_speed_is_a_ratio_of_two(make) -> None:  # type: ignore[no-untyped-def]
    compared = compare(make(1.0), make(2.0)).motion
    assert compared is not None and compared.ratio == pytest.approx(2, rel=WITHIN)


def test_noise_on_a_still_clip_is_nearly_no_motion() -> None:
    """Of 0.01, as `STILL` states; where there is nothing but noise, no window counts."""
    noise = 0.01 * normal((6, 3, 64, 64), 5)
    textured, flat = motion((texture(0, 0) + noise).clamp(0, 1)), motion(0.5 + noise)
    assert textured.magnitude is not None and 0 < textured.magnitude < 0.05 and textured.still_share == 1
    assert (flat.magnitude, flat.still_share) == (0, 1)


def test_frozen_frames_are_counted() -> None:
    clip = texture(1, 0)
    assert motion(clip[[0, 1, 1, 1, 2, 3, 4]]).still_share == pytest.approx(2 / 6)


def test_brightness_that_alternates_flickers_by_its_amplitude_and_a_fade_does_not() -> None:
    assert motion(grey([0.5, 0.6] * 4)).flicker == pytest.approx(0.05, abs=1e-6)
    assert motion(grey([0.1, 0.2, 0.3, 0.4])).flicker == pytest.approx(0, abs=1e-6)
    assert motion(grey([0.5, 0.5, 0.7, 0.5, 0.5])).flicker == pytest.approx((0.2 + 0.4 + 0.2) / 3 / 4, abs=1e-6)
    assert motion(shape_clip("square")).flicker == pytest.approx(0, abs=1e-3)


def test_colour_drift_is_the_difference_of_the_ends_in_lab() -> None:
    first, last = torch.tensor([0.8, 0.3, 0.02]), torch.tensor([0.7, 0.35, 0.2])
    way = torch.linspace(0, 1, 7)[:, None]
    colours = (1 - way) * first + way * last
    labs = [rgb2lab(colour.double().numpy()) for colour in (first, last)]
    clip = colours[:, :, None, None].expand(-1, -1, 16, 20)
    assert motion(clip).colour_drift == pytest.approx(float(deltaE_cie76(*labs)), abs=1e-3)
    assert motion(clip[[0, 1, 2, 1, 0]]).colour_drift == 0


def test_the_ends_are_the_eighths_of_the_frames() -> None:
    """Of 16 frames two each: the first and the last alone do not count."""
    levels = [0.4, 0.6, *[0.1] * 12, 0.6, 0.4]
    assert motion(grey(levels)).colour_drift == pytest.approx(0, abs=1e-5)


def test_a_clip_against_itself() -> None:
    clip = texture(1.3, 0.4)
    compared = compare(clip, clip.clone()).motion
    assert compared is not None and compared.ratio == 1 and compared.reference == compared.candidate


@pytest.mark.parametrize("size", [(16, 16), (16, 50), (37, 29), (270, 17)])
def test_any_size_from_16_on_is_measured(size: tuple[int, int]) -> None:
    assert motion(texture(1, 0, *size, frames=3)).magnitude == pytest.approx(1, rel=0.1)


def test_a_long_clip_is_measured_in_parts_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = texture(1, 0)
    whole = motion(clip)
    monkeypatch.setattr("fastvideo_core.quality.flow.CHUNK", 2 * clip[0].numel())
    assert len(list(flow(clip))) == 3
    parts = motion(clip)
    assert [pair.mean for pair in parts.pairs] == pytest.approx([pair.mean for pair in whole.pairs], rel=1e-5)


def test_the_data_range_is_no_matter() -> None:
    clip = texture(1, 0)
    large = motion(255 * clip, 255.0)
    assert large.magnitude == pytest.approx(motion(clip).magnitude, rel=1e-4)
    assert (large.flicker, large.colour_drift) == pytest.approx((motion(clip).flicker, motion(clip).colour_drift), abs=1e-4)


def test_a_single_frame_has_no_motion_and_small_frames_are_refused() -> None:
    one = motion(texture(0, 0, frames=1))
    assert one.figures() == {"magnitude": None, "still_share": None, "pairs": (), "flicker": None, "colour_drift": None}
    assert motion(texture(0, 0, frames=2)).flicker is None
    with pytest.raises(RequestError, match="Frames of 20 x 15 pixels are too small to see motion in: give 16 x 16 or more"):
        motion(torch.rand(2, 3, 15, 20))
    assert compare(torch.rand(2, 3, 15, 20), torch.rand(2, 3, 15, 20)).motion is None


def test_a_reference_that_stands_still_has_no_ratio() -> None:
    compared = compare(texture(0, 0), texture(1, 0))
    assert compared.motion is not None and compared.motion.ratio is None
    assert "ratio" not in table(compared) and json.loads(account_json(compared))["motion"]["ratio"] is None


def test_the_table_json_and_plot_tell_both() -> None:
    compared = compare(texture(1, 0), texture(2, 0))
    assert compared.motion is not None
    rows = [line.split() for line in table(compared).splitlines() if line.startswith(("motion", "still", "flicker", "colour"))]
    assert rows[0][:5] == ["motion,", "pixels", "per", "frame,", "ratio"] and float(rows[0][5]) == pytest.approx(2, rel=WITHIN)
    assert [row[-2:] for row in rows][1] == ["0%", "0%"] and len(rows) == 4
    told = json.loads(account_json(compared))["motion"]
    assert told["ratio"] == compared.motion.ratio and len(told["candidate"]["pairs"]) == 5
    assert told["reference"]["magnitude"] == compared.motion.reference.magnitude
    panel = frame_panels({"candidate": compared})[-1]
    assert [curve.name for curve in panel.curves] == ["candidate", "reference"] and panel.y.startswith("motion")
    assert panel.curves[0].points[0] == (1, compared.motion.candidate.pairs[0].mean)


def test_single_frames_have_no_rows_of_motion() -> None:
    compared = compare(texture(0, 0, frames=1), texture(0, 0, frames=1))
    assert "motion" not in table(compared) and len(frame_panels({"candidate": compared})) == 1
    assert json.loads(Comparison(data_range=1.0, frames=(FrameQuality(psnr=1, ssim=1),)).json())["motion"] is None

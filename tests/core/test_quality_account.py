"""A comparison as people read it: table, JSON, curves, and videos next to each other."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from fastvideo_core import CacheReport, PhaseReport, RunReport
from fastvideo_core.quality import Comparison, Curve, FrameQuality, Panel, account_json, difference, frame_panels, plot, table
from fastvideo_core.quality.plot import HEIGHT, WIDTH, ticks

COMPARISON = Comparison(
    data_range=1.0,
    frames=(FrameQuality(psnr=math.inf, ssim=1.0), FrameQuality(psnr=30.5, ssim=0.91), FrameQuality(psnr=33.5, ssim=0.88)),
)
PHASE = PhaseReport(expert="single", steps=6, first_sigma=1.0, guidance_scale=3.0, calls={"2": 6}, reused_negative=0)
DENSE = RunReport(
    model="demo", variant="tiny", solver="euler", sigmas=(1.0, 0.5, 0.0), guidance_mode="batched", guidance_reason="as asked",
    phases=(PHASE,), latent_shape=(1, 16, 3, 8, 8), device="cpu", dtype="float32", seed=1, step_seconds=(3.0, *(2.0,) * 5),
    total_seconds=13.0, peak_memory_bytes=None,
)  # fmt: skip
CACHE = CacheReport(
    name="MagCache", settings={}, phases=(), aside="", bypassed=0, blocks_ran=4, blocks_asked=8, peak_bytes=2**20
)  # fmt: skip
FAST = replace(DENSE, step_seconds=(1.0,) * 6, total_seconds=6.0, caches=(CACHE,), patches=("a kernel",))


def test_table_says_mean_worst_and_where() -> None:
    text = table(COMPARISON)
    assert "3 frames, data range 1" in text
    first, _, _, psnr, ssim = text.splitlines()
    assert first == "speed-up not known (it takes both reports), SSIM 0.9300"
    assert psnr.split() == ["PSNR", "32.00", "dB", "30.50", "dB", "in", "frame", "1"]
    assert ssim.split() == ["SSIM", "0.9300", "0.8800", "in", "frame", "2"]


def test_table_and_json_tell_the_runs() -> None:
    text = table(COMPARISON, DENSE, FAST)
    assert "reference: 6 steps in 12.00 s (12.00 - 12.00); 1.00 s more in first steps, for loading and warm-up" in text
    assert "candidate: 6 steps in 6.00 s (6.00 - 6.00)" in text
    assert "MagCache: 50% of the block calls saved" in text
    assert text.splitlines()[0] == "6.00 s in place of 12.00 s, speed-up 2.00 (2.00 - 2.00), SSIM 0.9300"
    data = json.loads(account_json(COMPARISON, DENSE, FAST), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (data["speed_up"], data["speed_up_between"]) == (2.0, [2.0, 2.0])
    assert data["frames"][0]["psnr"] is None
    assert data["candidate"]["caches"][0]["blocks_ran"] == 4


def test_a_run_of_an_earlier_prompt_is_named() -> None:
    kept, new = replace(DENSE, prompt="a"), replace(FAST, prompt="b")
    notes = [line for line in table(COMPARISON, kept, new, prompt="b").splitlines() if line.startswith("note: ")]
    assert len(notes) == 1 and "the reference comes from an earlier prompt" in notes[0]
    assert "earlier prompt" not in table(COMPARISON, DENSE, FAST, prompt="b")


def test_equal_runs_are_not_told_apart() -> None:
    slower = replace(DENSE, step_seconds=(3.0,) * 6)
    first = table(COMPARISON, DENSE, slower).splitlines()[0]
    assert first == "18.00 s in place of 12.00 s, speed-up not distinguishable (0.67 - 1.00), SSIM 0.9300"
    assert json.loads(account_json(COMPARISON, DENSE, slower))["speed_up"] is None


def test_lpips_has_a_row_and_a_panel_only_where_it_was_measured() -> None:
    measured = replace(COMPARISON, frames=tuple(replace(frame, lpips=0.1) for frame in COMPARISON.frames))
    assert "LPIPS" not in table(COMPARISON) and "LPIPS" in table(measured)
    assert [len(frame_panels(comparison)) for comparison in (COMPARISON, measured)] == [2, 3]


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0.0, 1.0), (0.9312, 0.9987), (33.0, 33.0), (0.0, 0.0), (-3.0, 16.0), (12.0, 1234.0), (1 - 2**-53, 1.0), (0.9999998, 1.0),
        (1e-14, 3e-14),
    ],
)  # fmt: skip
def test_ticks_are_round_few_and_enclose_the_values(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert (marks[0] <= low or marks[0] == pytest.approx(low, rel=1e-12)) and high <= marks[-1]
    assert 2 <= len(marks) <= 8
    steps = [after - before for before, after in pairwise(marks)]
    assert all(step == pytest.approx(steps[0]) for step in steps)


def test_plot_draws_every_curve_in_its_colour_and_leaves_infinite_points_out() -> None:
    one = Curve(name="a", points=[(0, 1.0), (1, math.inf), (2, 0.5)])
    other = Curve(name="b", points=[(0, 0.5), (2, 1.0)])
    panel = Panel(title="t", x="x", y="y", curves=[one, other])
    picture = plot([panel, replace(panel, curves=[one])])
    assert picture.shape == (2 * HEIGHT, WIDTH, 3)
    assert 0 <= float(picture.min()) < float(picture.max()) == 1.0
    orange = (picture - torch.tensor([213, 94, 0]) / 255).abs().amax(dim=2) < 1e-3
    assert bool(orange[:HEIGHT].any()) and not bool(orange[HEIGHT:].any())
    assert plot([replace(panel, curves=[Curve(name="none", points=[(0, math.inf)])])]).shape == (HEIGHT, WIDTH, 3)


def test_a_difference_is_cut_off_at_the_data_range() -> None:
    a, b = torch.full((1, 3, 2, 2), 200.0), torch.full((1, 3, 2, 2), 100.0)
    assert float(difference(a, b, 2.0, 255.0).max()) == 200.0
    assert float(difference(b, a, 4.0, 255.0).max()) == 255.0

"""A comparison as people and programs read it: table and JSON."""

import json
import math
from dataclasses import replace

import pytest

from fastvideo_core import CacheReport, PhaseReport, RunReport
from fastvideo_core.pictures import frame_panels
from fastvideo_core.quality import Comparison, FrameQuality, account_json, table

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
    assert [len(frame_panels({"candidate": comparison})) for comparison in (COMPARISON, measured)] == [2, 3]

"""MagCache at its default settings: fast enough, and the same videos. The limits, and what was measured, are in limits.py."""

import pytest
from gate import CASES, chained, lost_points, outcome
from limits import LEAST_CUT, LEAST_SSIM, MOST_LOST_POINTS


@pytest.mark.parametrize(("kind", "steps"), CASES)
def test_videos_stay_like_the_dense_ones_while_block_calls_are_saved(kind, steps):
    found = outcome("MagCache", kind, steps)
    print(f"MagCache, {kind}, {steps} steps: {found}")
    assert found.ssim >= LEAST_SSIM
    assert found.cut >= LEAST_CUT["MagCache"]


def test_prompts_are_followed_as_before():
    lost = lost_points("MagCache")
    print(f"MagCache: {lost:+.2f} points lost")
    assert lost <= MOST_LOST_POINTS


@pytest.mark.parametrize("shift", [5.0, 8.0])
def test_experts_that_are_chained_beside_the_tables_boundary_keep_their_videos(shift):
    found = chained(shift)
    print(f"MagCache, two experts chained at half of 20 steps, shift {shift:g}: {found}")
    assert found.ssim >= LEAST_SSIM
    assert found.cut >= LEAST_CUT["MagCache"]
    assert found.shown >= found.shown_dense

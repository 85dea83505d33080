"""DBCache at its default settings: fast enough, and the same videos. The limits, and what was measured, are in limits.py."""

import pytest
from gate import CASES, lost_points, outcome
from limits import LEAST_CUT, LEAST_SSIM, MOST_LOST_POINTS


@pytest.mark.parametrize(("kind", "steps"), CASES)
def test_videos_stay_like_the_dense_ones_while_block_calls_are_saved(kind, steps):
    found = outcome("DBCache", kind, steps)
    print(f"DBCache, {kind}, {steps} steps: {found}")
    assert found.ssim >= LEAST_SSIM
    assert found.cut >= LEAST_CUT["DBCache"]


def test_prompts_are_followed_as_before():
    lost = lost_points("DBCache")
    print(f"DBCache: {lost:+.2f} points lost")
    assert lost <= MOST_LOST_POINTS

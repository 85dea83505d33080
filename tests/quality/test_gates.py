"""Accelerators against the dense clips of each case: fast enough, and the same videos. The limits, and what was measured, are in
limits.py.

One file, so that one process makes a case's dense clips, once for all of them.
"""

import pytest
from gate import CASES, CLIPS, NEW, chained, dense, lost_points, outcome
from limits import LEAST_CUT, LEAST_SPARSE_SSIM, LEAST_SSIM, MOST_DENSITY, MOST_LOST_POINTS

from fastvideo_core.attention.sparse import NABLASettings
from tools.bench.sparse import DENSE_STEPS, KINDS, STEPS, video
from tools.bench.sparse_ladder import TILE
from tools.demo_model.engine import demo_engine
from tools.demo_model.evaluation import READ, readings

every_cache = pytest.mark.parametrize("name", NEW)
SPARSE = NABLASettings(tile=TILE)
"""The authors' share of the attention, on tiles of the clips' measure; the first quarter of the steps is dense."""


@every_cache
@pytest.mark.parametrize(("kind", "steps"), CASES)
def test_videos_stay_like_the_dense_ones_while_block_calls_are_saved(kind, steps, name):
    found = outcome(name, kind, steps)
    print(f"{name}, {kind}, {steps} steps: {found}")
    assert found.ssim >= LEAST_SSIM
    assert found.cut >= LEAST_CUT[name]


@every_cache
def test_prompts_are_followed_as_before(name):
    lost = lost_points(name)
    print(f"{name}: {lost:+.2f} points lost")
    assert lost <= MOST_LOST_POINTS


@pytest.mark.parametrize("shift", [5.0, 8.0])
def test_experts_that_are_chained_beside_the_tables_boundary_keep_their_videos(shift):
    found = chained(shift)
    print(f"MagCache, two experts chained at half of 20 steps, shift {shift:g}: {found}")
    assert found.ssim >= LEAST_SSIM
    assert found.cut >= LEAST_CUT["MagCache"]
    assert found.shown >= found.shown_dense


@pytest.mark.parametrize("kind", KINDS)
def test_videos_under_sparse_attention_without_training_stay_like_the_dense_ones_and_show_what_was_asked(kind):
    """Where it may choose by what the tokens are."""
    reference = dense(kind, STEPS)
    shown = readings(reference.batch.scenes, reference.frames)
    found = video(demo_engine(kind), reference.batch, reference.frames, SPARSE, DENSE_STEPS)
    print(f"NABLA, {kind}: {found}")
    assert found.ssim >= LEAST_SPARSE_SSIM
    assert found.density <= MOST_DENSITY
    assert 100 * (shown - found.shown) / (CLIPS * len(READ)) <= MOST_LOST_POINTS

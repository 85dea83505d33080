"""Sparse attention without training: the same videos, where it may choose by what the tokens are. The limits, and what was
measured, are in limits.py."""

import pytest
from gate import CLIPS, dense
from limits import LEAST_SPARSE_SSIM, MOST_DENSITY, MOST_LOST_POINTS

from fastvideo_core.attention.sparse import NABLASettings
from tools.bench.sparse import DENSE_STEPS, KINDS, STEPS, video
from tools.bench.sparse_ladder import TILE
from tools.demo_model.engine import demo_engine
from tools.demo_model.evaluation import READ, readings

SETTINGS = NABLASettings(tile=TILE)
"""The authors' share of the attention, on tiles of the clips' measure; the first quarter of the steps is dense."""


@pytest.mark.parametrize("kind", KINDS)
def test_videos_stay_like_the_dense_ones_and_show_what_was_asked(kind):
    reference = dense(kind, STEPS)
    shown = readings(reference.batch.scenes, reference.frames)
    found = video(demo_engine(kind), reference.batch, reference.frames, SETTINGS, DENSE_STEPS)
    print(f"NABLA, {kind}: {found}")
    assert found.ssim >= LEAST_SPARSE_SSIM
    assert found.density <= MOST_DENSITY
    assert 100 * (shown - found.shown) / (CLIPS * len(READ)) <= MOST_LOST_POINTS

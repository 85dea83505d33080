"""Two generations side by side, on a tiny model."""

import math

import pytest
import torch
from tiny_model import model_of

from fastvideo_core import GuidanceSettings, RequestError, SamplingRequest, against, measure, with_dbcache
from fastvideo_core.quality import compare
from fastvideo_core.step_cache import DBCacheSettings

REQUEST = SamplingRequest(steps=10, shift=5.0, guidance_scale=4.0, seed=2, guidance=GuidanceSettings(mode="batched"))
MODEL = model_of("t2v")
SIZE = MODEL.video_size(width=32, height=48, frames=9)
CONDITIONING = MODEL.condition("a cat", "blurry", SIZE)
CACHE = with_dbcache(DBCacheSettings(threshold=0.5, first_blocks=1, warmup_steps=1))


def test_what_is_measured_is_the_generation_itself() -> None:
    measured = measure(MODEL, CONDITIONING, SIZE, REQUEST)
    generation = MODEL.generate(REQUEST, CONDITIONING, SIZE)
    list(generation)
    assert torch.equal(measured.latents, generation.latents)
    assert torch.equal(measured.frames, MODEL.decode(generation.latents)[0].transpose(0, 1))
    assert measured.frames.shape == (9, 3, 48, 32)
    assert measured.report.caches == () and len(measured.report.step_seconds) == 10
    assert measured.seconds >= sum(measured.report.step_seconds)


def test_a_generation_against_itself_is_equal() -> None:
    dense = measure(MODEL, CONDITIONING, SIZE, REQUEST)
    mean = against(dense, measure(MODEL, CONDITIONING, SIZE, REQUEST)).mean
    assert (mean.psnr, mean.ssim) == (math.inf, 1.0)


def test_an_accelerated_generation_is_compared_frame_by_frame() -> None:
    dense, fast = measure(MODEL, CONDITIONING, SIZE, REQUEST), measure(MODEL, CONDITIONING, SIZE, REQUEST, CACHE)
    (cache,) = fast.report.caches
    assert cache.blocks_ran < cache.blocks_asked
    assert against(dense, fast) == compare(dense.frames, fast.frames)
    assert against(dense, fast).mean.psnr < math.inf


def test_videos_of_two_sizes_are_not_compared() -> None:
    larger = MODEL.video_size(width=48, height=48, frames=9)
    dense = measure(MODEL, CONDITIONING, SIZE, REQUEST)
    other = measure(MODEL, MODEL.condition("a cat", "blurry", larger), larger, REQUEST)
    with pytest.raises(RequestError, match="of one size"):
        against(dense, other)

"""The judge reads rendered clips right, and notices clips that show nothing."""

import random

import numpy as np
import pytest

from tools.demo_model.judge import UNCLEAR, judge
from tools.demo_model.world import BACKGROUND_COLOURS, MOTIONS, OBJECT_COLOURS, SHAPES, combinations, render, sample_scene

CLIPS = 500


def frames(scene):
    return ((render([scene])[0] + 1) * 127.5).round().permute(1, 2, 3, 0).numpy()


def verdicts(held_out):
    rng = random.Random(7)
    for _ in range(CLIPS):
        scene = sample_scene(rng, held_out)
        verdict = judge(frames(scene))
        yield (verdict.shape, verdict.colour, verdict.background, verdict.motion) == scene.combination


@pytest.mark.parametrize("held_out", [False, True])
def test_reads_at_least_99_percent_of_rendered_clips(held_out):
    assert np.mean(list(verdicts(held_out))) >= 0.99


def test_reads_99_percent_through_noise():
    rng, noise = random.Random(8), np.random.default_rng(8)
    right = 0
    for _ in range(CLIPS):
        scene = sample_scene(rng)
        clip = frames(scene)
        verdict = judge((clip + noise.normal(0, 6, clip.shape)).clip(0, 255))
        right += (verdict.shape, verdict.colour, verdict.background, verdict.motion) == scene.combination
    assert right >= 0.99 * CLIPS


def test_an_empty_clip_shows_no_object():
    verdict = judge(np.full((17, 64, 64, 3), 128.0))
    assert (verdict.shape, verdict.colour, verdict.motion) == (UNCLEAR,) * 3
    assert verdict.background == "gray"


def test_pure_noise_is_not_named():
    verdict = judge(np.random.default_rng(0).uniform(0, 255, (17, 64, 64, 3)))
    assert UNCLEAR in (verdict.shape, verdict.colour)


def test_training_and_held_out_combinations_cover_the_world_without_overlap():
    training, held_out = set(combinations(False)), set(combinations(True))
    assert not training & held_out
    assert len(training | held_out) == len(SHAPES) * len(OBJECT_COLOURS) * len(BACKGROUND_COLOURS) * len(MOTIONS)

"""The image condition moved away from its first frame, against the formula written value by value."""

import pytest
import torch
from tiny import normal
from tiny_model import images, model_of, small

from fastvideo_core import ConditioningError, RequestError, amplified

ONE = {"image_motion": 1.0}


def test_an_amplitude_of_one_changes_nothing() -> None:
    frames = 9 * normal((2, 16, 3, 4, 6), 0)
    assert torch.equal(amplified(frames, 1.0), frames)


def test_it_is_the_formula_frame_by_frame() -> None:
    frames, expected = 2 * normal((2, 16, 3, 4, 6), 1), []
    for video in frames:
        first, moved = video[:, 0], [video[:, 0]]
        for at in (1, 2):
            difference = video[:, at] - first
            moved.append((first + 1.5 * (difference - difference.mean()) + difference.mean()).clamp(-6, 6))
        expected.append(torch.stack(moved, dim=1))
    found = amplified(frames, 1.5)
    torch.testing.assert_close(found, torch.stack(expected))
    assert torch.equal(found[:, :, 0], frames[:, :, 0]) and float(found[:, :, 1:].abs().max()) == 6


def test_a_single_frame_stays() -> None:
    frames = normal((1, 16, 1, 4, 4), 2)
    assert torch.equal(amplified(frames, 1.5), frames)


@pytest.mark.parametrize("amplitude", [0.9, 2.1, float("nan"), True])
def test_other_amplitudes_are_refused(amplitude: float) -> None:
    with pytest.raises(RequestError, match="amplitude is"):
        amplified(normal((1, 16, 2, 4, 4), 3), amplitude)


def test_a_model_s_condition_is_moved_where_the_vae_made_it() -> None:
    model = model_of("i2v two experts")
    size = small(model)
    given = images("i2v two experts", size)
    plain, same, moved = (model.condition("a cat", None, size, **given, **motion) for motion in ({}, ONE, {"image_motion": 1.4}))
    assert torch.equal(plain.image, same.image) and torch.equal(plain.image[:, :4], moved.image[:, :4])
    mean, std = model.vae.latents_mean, model.vae.latents_std
    raw = plain.image[:, 4:] * std + mean
    torch.testing.assert_close(moved.image[:, 4:] * std + mean, amplified(raw, 1.4))
    assert not torch.equal(plain.image, moved.image) and torch.equal(plain.positive, moved.positive)


@pytest.mark.parametrize(
    ("kind", "amplitude", "error", "words"),
    [
        ("t2v", 1.15, ConditioningError, r"image_motion is 1\.15, and this model reads no image"),
        ("ti2v", 1.15, ConditioningError, "reads no image beside its noise"),
        ("flf2v", 1.15, ConditioningError, "a last image is given"),
        ("i2v clip", 3.0, RequestError, r"image_motion is 3\.0: it is how much more"),
        ("t2v", True, RequestError, "image_motion is True"),
    ],
)
def test_what_cannot_be_moved_is_refused(kind: str, amplitude: float, error: type[Exception], words: str) -> None:
    model = model_of(kind)
    size = small(model)
    with pytest.raises(error, match=words):
        model.condition("a cat", None, size, **images(kind, size), image_motion=amplitude)

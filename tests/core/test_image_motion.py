"""The image condition moved away from its first frame, against the formula written value by value."""

import pytest
import torch
from tiny import normal

from fastvideo_core import RequestError, amplified


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

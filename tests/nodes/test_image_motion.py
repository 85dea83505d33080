"""FastVideo Image Motion, behind core's WanImageToVideo."""

from typing import Any

import pytest
import torch
from sampling import normal

from fastvideo_core import ConditioningError, amplified


def image_condition(known: int = 1, frames: int = 3) -> list[Any]:
    """As WanImageToVideo makes it, whose mask is 0 where a frame is given."""
    mask = torch.ones(1, 1, frames, 8, 8)
    mask[:, :, :known] = 0
    return [[normal(1, 1, 4, 8), {"concat_latent_image": 2 * normal(2, 1, 16, frames, 8, 8), "concat_mask": mask, "kept": 1}]]


def run(comfy: Any, given: list[Any], amplitude: float) -> list[list[Any]]:
    return list(comfy.node_classes["FastVideoImageMotion"].execute(positive=given, negative=given, amplitude=amplitude).args)


def test_both_branches_are_given_the_engines_values_and_all_else_stays(comfy: Any) -> None:
    given = image_condition()
    before = given[0][1]["concat_latent_image"].clone()
    for ((text, told),) in run(comfy, given, 1.3):
        assert torch.equal(told["concat_latent_image"], amplified(before, 1.3)) and told["kept"] == 1 and text is given[0][0]
    assert torch.equal(given[0][1]["concat_latent_image"], before)


def test_an_amplitude_of_one_changes_nothing(comfy: Any) -> None:
    given = image_condition()
    for ((_, told),) in run(comfy, given, 1.0):
        assert torch.equal(told["concat_latent_image"], given[0][1]["concat_latent_image"])


@pytest.mark.parametrize(
    ("given", "said"),
    [([[torch.zeros(1, 4, 8), {}]], "The positive has no start image"), (image_condition(2), "more than one start image")],
)
def test_what_it_cannot_move_is_refused(comfy: Any, given: list[Any], said: str) -> None:
    with pytest.raises(ConditioningError, match=said):
        run(comfy, given, 1.15)

"""FastVideo Image Motion, behind core's WanImageToVideo."""

import json
from typing import Any

import pytest
import torch
from sampling import normal, relative_error
from torch import Tensor

from fastvideo_core import ConditioningError, SamplingRequest, amplified, load_demo


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


PROMPT = "a red circle moving left over a teal background"
FRAMES, SIDE, STEPS = 17, 64, 4
FEW: dict[str, Any] = {
    "seed": 5, "steps": STEPS, "shift": 5.0, "solver": "euler", "guidance_scale": 1.0, "low_noise_guidance_scale": 1.0,
    "boundary": 0.875, "guidance_mode": "auto", "gate": 1.0, "guidance_rescale": 0.0,
}  # fmt: skip


def start_image() -> Tensor:
    """(1, height, width, 3): what the prompt begins with."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    inside = ((x - 36) ** 2 + (y - 32) ** 2 < 13**2)[..., None]
    return torch.where(inside, torch.tensor([230, 40, 40]) / 255, torch.tensor([20, 120, 120]) / 255)[None]


@pytest.mark.usefixtures("direct")
def test_a_video_moves_more_and_is_the_engines(comfy: Any) -> None:
    """The demo's image-to-video model, in few steps without guidance, as FastVideo Compare measures it."""
    from comfy_extras.nodes_wan import WanImageToVideo

    node = comfy.node_classes
    model, _, clip, vae = node["FastVideoLoadDemoWan"].execute(model="i2v").args[:4]
    texts = node["FastVideoTextEncode"].execute(clip=clip, positive=PROMPT, negative="").args[:2]
    positive, negative, latent = WanImageToVideo.execute(*texts, vae, SIDE, SIDE, FRAMES, 1, start_image()).args
    videos = []
    for amplitude in (1.0, 1.15):
        conditions = node["FastVideoImageMotion"].execute(positive=positive, negative=negative, amplitude=amplitude).args
        branches = dict(zip(("positive", "negative"), conditions, strict=True))
        video, _ = node["FastVideoSampler"].execute(model=model, **branches, latent=latent, **FEW).args
        videos.append(video["samples"])
    shown = [vae.decode(video)[0] for video in videos]
    told = node["FastVideoCompare"].execute(reference=shown[0], candidate=shown[1], view="difference", amplify=1.0).args[3]
    assert json.loads(told)["motion"]["ratio"] > 1

    engine = load_demo("i2v")
    size = engine.video_size(width=SIDE, height=SIDE, frames=FRAMES)
    condition = engine.condition(PROMPT, "", size, start_image().movedim(-1, 1), image_motion=1.15)
    running = engine.generate(
        SamplingRequest(steps=STEPS, shift=5.0, guidance_scale=1.0, solver="euler", seed=5), condition, size
    )
    list(running)
    assert relative_error(model.model.process_latent_out(running.latents), videos[1]) < 1e-3
    assert relative_error(videos[0], videos[1]) > 1e-2, "the amplitude is seen"


@pytest.mark.parametrize(
    ("given", "said"),
    [([[torch.zeros(1, 4, 8), {}]], "The positive has no start image"), (image_condition(2), "more than one start image")],
)
def test_what_it_cannot_move_is_refused(comfy: Any, given: list[Any], said: str) -> None:
    with pytest.raises(ConditioningError, match=said):
        run(comfy, given, 1.15)

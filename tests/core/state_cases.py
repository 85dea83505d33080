"""Generations that stop and go on."""

from typing import Any

from tiny_model import images, model_of, small
from torch import Tensor

from fastvideo_core import Generation, GenerationState, GuidanceSettings, PhaseSettings, SamplingRequest, WanModel

STEPS = 6
THREE = (
    PhaseSettings(expert="high_noise", guidance_scale=3.5, until=0.93),
    PhaseSettings(expert="high_noise", guidance_scale=1.0, until=0.75),
    PhaseSettings(expert="low_noise", guidance_scale=2.0),
)


def request(**changes: Any) -> SamplingRequest:
    settings = {"steps": STEPS, "shift": 5.0, "guidance_scale": 3.0, "seed": 7, "guidance": GuidanceSettings(mode="batched")}
    if "phases" in changes:
        settings["guidance_scale"] = None
    return SamplingRequest(**(settings | changes))


def generation(
    kind: str, asked: SamplingRequest, prompt: str = "a cat sits", model: WanModel | None = None, **options: Any
) -> Generation:
    model = model or model_of(kind)
    size = small(model)
    condition = model.condition(prompt, "blurry", size, **images(kind, size))
    return model.generate(asked, condition, size, **options)


def whole(kind: str, asked: SamplingRequest, **options: Any) -> tuple[list[Tensor], list[GenerationState]]:
    """The latents after each step, and the state before each and after the last."""
    running = generation(kind, asked, **options)
    states, latents = [running.state()], []
    for step in running:
        latents.append(step.latents)
        states.append(running.state())
    return latents, states


def state_after(steps: int, kind: str = "t2v", asked: SamplingRequest | None = None, **options: Any) -> GenerationState:
    running = generation(kind, asked or request(), **options)
    for _ in range(steps):
        next(running)
    running.close()
    return running.state()

"""Jobs of tiny models, of unequal prompts, seeds and sizes."""

from dataclasses import replace
from typing import Any

import torch
from tiny_model import images, model_of

from fastvideo_core import Generation, Job, Outcome, PhaseSettings, SamplingRequest, WanModel

PAIR = "t2v two experts"
TWO = {"boundary": 0.875, "low_noise_guidance_scale": 2.0}
BACK_AND_FORTH = (
    PhaseSettings(expert="high_noise", guidance_scale=3.5, until=0.93),
    PhaseSettings(expert="low_noise", guidance_scale=1.0, until=0.75),
    PhaseSettings(expert="high_noise", guidance_scale=2.0),
)
PROMPTS = ("a cat sits on a mat", "the quick brown fox jumps over the lazy dog", "fog")


def job(kind: str, number: int, asked: SamplingRequest, **settings: Any) -> Job:
    """Prompts of unequal lengths, a seed and a size each."""
    model = model_of(kind)
    width, height = (6 + 2 * (number % 2)) * model.vae.spatial, 4 * model.vae.spatial
    size = model.video_size(width=width, height=height, frames=5 + 4 * (number % 3))
    told = model.condition(PROMPTS[number % 3], "blurry", size, **images(kind, size))
    return Job(request=replace(asked, seed=number), conditioning=told, size=size, **settings)


def alone(model: WanModel, job: Job, **options: Any) -> Generation:
    generation = model.generate(job.request, job.conditioning, job.size, **options)
    list(generation)
    return generation


def assert_as_alone(model: WanModel, outcomes: list[Outcome], **options: Any) -> None:
    for outcome in outcomes:
        single = alone(model, outcome.job, **options)
        assert outcome.error is None and torch.equal(outcome.latents, single.latents)

"""Trains the text encoder with the text-to-video transformer, and the other transformers from it."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .captions import caption
from .evaluation import validate
from .latents import Latents
from .loop import Stage, train_stage
from .precision import half_precision
from .sampling import DemoModels
from .text import PromptEncoder
from .transformer import flow_loss, image_to_video_from, shifted, unshifted

STILLS = Stage("t2v_stills", steps=300, batch=96, rate=2e-3, warmup=100, average=0.99)
CLIPS = Stage("t2v", steps=375, batch=48, rate=1.5e-3, warmup=100, final=0.6, average=0.99)
REFINED = Stage("t2v_refined", steps=1500, batch=48, rate=1.5e-3, warmup=20, average=0.99)
POLISHED = Stage("t2v_polished", steps=1800, batch=48, rate=1e-3, warmup=20, final=0.02)
IMAGE = Stage("i2v", steps=2000, batch=48, rate=8e-4, warmup=20, final=0.02)
HIGH_NOISE = Stage("high_noise", steps=200, batch=48, rate=4e-4, warmup=20, final=0.02)
LOW_NOISE = Stage("low_noise", steps=300, batch=48, rate=4e-4, warmup=20, final=0.02)
BOUNDARY = 0.875  # sigma at which the low-noise expert takes over
CAPTION_DROPOUT = 0.1


class TextToVideo(nn.Module):
    """What is trained together: the text encoder and its transformer."""

    def __init__(self, prompts: PromptEncoder, transformer: WanTransformer3DModel) -> None:
        super().__init__()
        self.prompts = prompts
        self.transformer = transformer


@dataclass(frozen=True)
class Lesson:
    """What one stage trains on: which sigmas, how many latent frames, with the first frame given or not."""

    stage: Stage
    low: float = 0.0
    high: float = 1.0
    frames: int = 5
    image: bool = False

    def sigmas(self, generator: torch.Generator) -> torch.Tensor:
        """One sigma between `low` and `high` per clip, evenly spread over the batch before the shift."""
        low, high = unshifted(self.low), unshifted(self.high)
        places = torch.arange(self.stage.batch) + torch.rand(self.stage.batch, generator=generator)
        return shifted(low + (high - low) * places / self.stage.batch)


@dataclass(frozen=True)
class Course:
    """What every stage needs: the clips, where its checkpoint is, the seed, and the VAE to see what it has learnt."""

    latents: Latents
    folder: Path
    seed: int
    vae: AutoencoderKLWan


def lesson_loss(
    lesson: Lesson, transformer: WanTransformer3DModel, prompts: PromptEncoder, latents: Latents, step: int, seed: int
) -> torch.Tensor:
    """The flow loss of this step's batch, with some captions left out so that guidance has something to push from."""
    rng = random.Random(f"{seed} {lesson.stage.name} {step}")
    generator = torch.Generator().manual_seed(rng.getrandbits(60))
    device = transformer.device
    chosen = torch.tensor([rng.randrange(len(latents.clips)) for _ in range(lesson.stage.batch)])
    words = [caption(latents.scenes[index].combination, rng) for index in chosen]
    texts = ["" if rng.random() < CAPTION_DROPOUT else text for text in words]
    clips = latents.clips[chosen, :, : lesson.frames].float()
    noise = torch.randn(clips.shape, generator=generator)
    condition = latents.condition(chosen)[:, :, : lesson.frames].to(device) if lesson.image else None
    sigma = lesson.sigmas(generator).to(device)
    # For so few tokens plain matrix products are faster than the fused attention, above all backwards.
    with half_precision(device), sdpa_kernel(SDPBackend.MATH):
        return flow_loss(transformer, clips.to(device), prompts(texts), sigma, noise.to(device), condition)


def train_text_to_video(model: TextToVideo, course: Course) -> None:
    """Stills (a clip's first latent frame: shapes and colours), then clips (motion), at last without the text encoder."""
    _train(Lesson(STILLS, frames=1), model, model, course)
    _train(Lesson(CLIPS), model, model, course)
    _train(Lesson(REFINED), model, model.transformer, course)


def polished(base: TextToVideo, course: Course) -> TextToVideo:
    """The text-to-video transformer that ships, and that both experts start from."""
    model = TextToVideo(base.prompts, copy.deepcopy(base.transformer))
    _train(Lesson(POLISHED), model, model.transformer, course, DemoModels(course.vae, base.prompts, model.transformer))
    return model


def image_to_video(base: TextToVideo, course: Course) -> WanTransformer3DModel:
    """The 36-channel transformer; the course's latents need images."""
    model = TextToVideo(base.prompts, image_to_video_from(base.transformer))
    _train(Lesson(IMAGE, image=True), model, model.transformer, course, DemoModels(course.vae, base.prompts, model.transformer))
    return model.transformer


def high_noise(base: TextToVideo, course: Course) -> WanTransformer3DModel:
    """The expert for sigmas from the boundary up."""
    model = TextToVideo(base.prompts, copy.deepcopy(base.transformer))
    judged = DemoModels(course.vae, base.prompts, model.transformer, base.transformer, BOUNDARY)
    _train(Lesson(HIGH_NOISE, low=BOUNDARY), model, model.transformer, course, judged)
    return model.transformer


def low_noise(base: TextToVideo, course: Course) -> WanTransformer3DModel:
    """The expert for sigmas below the boundary."""
    model = TextToVideo(base.prompts, copy.deepcopy(base.transformer))
    judged = DemoModels(course.vae, base.prompts, base.transformer, model.transformer, BOUNDARY)
    _train(Lesson(LOW_NOISE, high=BOUNDARY), model, model.transformer, course, judged)
    return model.transformer


def _train(lesson: Lesson, model: TextToVideo, trained: nn.Module, course: Course, judged: DemoModels | None = None) -> None:
    model.prompts.requires_grad_(trained is model)
    train_stage(
        lesson.stage,
        trained,
        lambda step: lesson_loss(lesson, model.transformer, model.prompts, course.latents, step, course.seed),
        course.folder,
        None if judged is None else lambda: validate(judged, lesson.image),
    )

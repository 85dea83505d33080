"""Makes clips with the trained models: Euler steps over shifted sigmas with classifier-free guidance."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from .latents import encode_normalized, first_frame_clip, image_condition, latent_statistics
from .text import PromptEncoder
from .transformer import shifted
from .vae import decode_in_pairs

STEPS, GUIDANCE = 20, 3.0


@dataclass(frozen=True)
class DemoModels:
    """One VAE and text encoder with one transformer, or with two of which the second takes over below `boundary`."""

    vae: AutoencoderKLWan
    prompts: PromptEncoder
    transformer: WanTransformer3DModel
    low_noise: WanTransformer3DModel | None = None
    boundary: float = 0.0

    def expert(self, sigma: float) -> WanTransformer3DModel:
        """The transformer for this noise level."""
        return self.transformer if self.low_noise is None or sigma >= self.boundary else self.low_noise


@torch.no_grad()
def generate(
    models: DemoModels,
    texts: list[str],
    seeds: list[int],
    guidance: float = GUIDANCE,
    negative: str = "",
    first_frames: torch.Tensor | None = None,
    steps: int = STEPS,
) -> torch.Tensor:
    """Clips (B, 3, 17, 64, 64) in [-1, 1]; each has its own noise, so the batch does not matter.

    `first_frames` are clips whose first frame is given to an image-to-video transformer.
    """
    device = models.transformer.device
    noises = [torch.randn(16, 5, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    latents = torch.stack(noises).to(device)
    condition = None if first_frames is None else image_condition(encode_normalized(models.vae, first_frame_clip(first_frames)))
    rows = models.prompts(texts if guidance == 1.0 else [*texts, *[negative] * len(texts)])
    sigmas = shifted(torch.linspace(1, 0, steps + 1)).tolist()
    for sigma, following in itertools.pairwise(sigmas):
        velocity = _guided(models.expert(sigma), latents, condition, rows, sigma, guidance)
        latents = latents + (following - sigma) * velocity
    mean, std = (values.to(device) for values in latent_statistics(models.vae))
    return decode_in_pairs(models.vae, latents * std + mean).clamp(-1, 1)


def _guided(
    model: WanTransformer3DModel,
    latents: torch.Tensor,
    condition: torch.Tensor | None,
    rows: torch.Tensor,
    sigma: float,
    guidance: float,
) -> torch.Tensor:
    inputs = latents if condition is None else torch.cat([latents, condition], dim=1)
    branches = len(rows) // len(latents)  # one where guidance changes nothing
    timesteps = torch.full((len(rows),), sigma * 1000, device=latents.device)
    with torch.autocast(latents.device.type, torch.bfloat16, enabled=latents.device.type == "cuda"):
        velocities = model(torch.cat([inputs] * branches), timesteps, rows, return_dict=False)[0].float()
    positive, negative = velocities.chunk(branches)[0], velocities.chunk(branches)[-1]
    return negative + guidance * (positive - negative)

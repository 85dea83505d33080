"""The clips that the transformers learn from, encoded once: latents, image conditions and what the captions say."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan

from .precision import half_precision
from .vae import LATENT_CHANNELS, encode
from .world import Scene, render, sample_scene

BATCH = 16
MASK_CHANNELS = 4


@dataclass(frozen=True)
class Latents:
    """Scenes and their normalized latents, (N, 16, 5, 8, 8) in half precision.

    `images` are the latents of the first frames followed by grey.
    """

    scenes: list[Scene]
    clips: torch.Tensor
    images: torch.Tensor | None = None

    def condition(self, chosen: torch.Tensor) -> torch.Tensor:
        """The 20 extra channels of an image-to-video model: a mask of known frames, then the image latents."""
        return image_condition(self.images[chosen].float())


def image_condition(images: torch.Tensor) -> torch.Tensor:
    """Mask (1 at the first latent frame) and image latents, (B, 20, 5, 8, 8), from image latents (B, 16, 5, 8, 8)."""
    mask = torch.zeros_like(images[:, :MASK_CHANNELS])
    mask[:, :, 0] = 1
    return torch.cat([mask, images], dim=1)


def first_frame_clip(clips: torch.Tensor) -> torch.Tensor:
    """The first frame of each clip, followed by mid-grey frames (0 in [-1, 1])."""
    still = torch.zeros_like(clips)
    still[:, :, 0] = clips[:, :, 0]
    return still


def latent_statistics(vae: AutoencoderKLWan) -> tuple[torch.Tensor, torch.Tensor]:
    """Wan 2.1's fixed mean and standard deviation of each latent channel, shaped (1, 16, 1, 1, 1)."""
    shape = (1, LATENT_CHANNELS, 1, 1, 1)
    return torch.tensor(vae.config.latents_mean).view(shape), torch.tensor(vae.config.latents_std).view(shape)


@torch.no_grad()
def encode_normalized(vae: AutoencoderKLWan, clips: torch.Tensor) -> torch.Tensor:
    """Latents of `clips` in the space that the transformers work in: zero mean, unit variance."""
    mean, std = latent_statistics(vae)
    return (encode(vae, clips) - mean.to(clips.device)) / std.to(clips.device)


@torch.no_grad()
def settle_statistics(vae: AutoencoderKLWan, clips: torch.Tensor) -> None:
    """Makes each latent channel's mean and deviation over `clips` those that Wan fixes; the reconstructions do not change.

    Both ends of the latent space are 1x1x1 convolutions, so a scale and an offset of each channel fold into them exactly.
    """
    latents = encode(vae, clips)
    found_std, found_mean = torch.std_mean(latents, dim=(0, 2, 3, 4), keepdim=True)
    mean, std = (values.to(latents.device) for values in latent_statistics(vae))
    scale = (std / found_std).flatten()
    offset = (mean - found_mean * std / found_std).flatten()
    inner, outer = vae.quant_conv, vae.post_quant_conv
    inner.weight[:LATENT_CHANNELS] *= scale.view(-1, 1, 1, 1, 1)
    inner.bias[:LATENT_CHANNELS] = inner.bias[:LATENT_CHANNELS] * scale + offset
    inner.bias[LATENT_CHANNELS:] += 2 * scale.log()
    outer.weight /= scale.view(1, -1, 1, 1, 1)
    outer.bias -= outer.weight.flatten(1) @ offset


def cached_latents(vae: AutoencoderKLWan, path: Path, count: int, seed: int) -> Latents:
    """Encodes `count` training clips, or reads the latents that an earlier run left at `path`."""
    return encoded(vae, path, [sample_scene(random.Random(f"{seed} latents {index}")) for index in range(count)])


def encoded(vae: AutoencoderKLWan, path: Path, scenes: list[Scene]) -> Latents:
    """Latents of these scenes, encoded now or read from `path`."""
    return Latents(scenes, _cached(vae, path, scenes, lambda batch: batch))


def with_images(vae: AutoencoderKLWan, latents: Latents, path: Path) -> Latents:
    """Adds the image conditions, encoded now or read from `path`."""
    return replace(latents, images=_cached(vae, path, latents.scenes, first_frame_clip))


def _cached(
    vae: AutoencoderKLWan, path: Path, scenes: list[Scene], prepared: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    if not path.exists():
        latents = []
        for start in range(0, len(scenes), BATCH):
            batch = prepared(render(scenes[start : start + BATCH])).to(vae.device)
            with half_precision(vae.device):
                latents.append(encode_normalized(vae, batch).half().cpu())
            if start % (BATCH * 16) == 0:
                print(f"{path.stem} {start}/{len(scenes)}", flush=True)
        torch.save(torch.cat(latents), path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)
    return torch.load(path, weights_only=True)

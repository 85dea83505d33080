"""Trains the VAE: single frames first, then clips of 5 frames, then of all 17."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan

from .loop import Stage, train_stage
from .precision import half_precision
from .vae import POSTERIOR_STD, decode, encode
from .world import FRAMES, SIZE, render, sample_scene

STAGES = (
    Stage("vae_frames", steps=450, batch=48, rate=2e-3, warmup=100),
    Stage("vae_short", steps=250, batch=16, rate=1.5e-3),
    Stage("vae_clips", steps=80, batch=8, rate=5e-4),
)
WINDOWS = {"vae_frames": (1, 32), "vae_short": (5, 32), "vae_clips": (FRAMES, 32)}
ABSOLUTE_WEIGHT = 0.1
PRIOR_WEIGHT = 1e-4  # pulls the latents towards unit variance


def train_vae(vae: AutoencoderKLWan, folder: Path, seed: int) -> None:
    """Runs the stages on `vae` in place, each from its checkpoint if there is one."""
    for stage in STAGES:
        train_stage(stage, vae, lambda step, stage=stage: vae_loss(vae, stage, step, seed), folder)


def vae_loss(vae: AutoencoderKLWan, stage: Stage, step: int, seed: int) -> torch.Tensor:
    """Squared and absolute error of the reconstruction, plus the prior's pull on the means."""
    device = next(vae.parameters()).device
    clips = training_clips(stage, step, seed).to(device)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    with half_precision(device):
        means = encode(vae, clips)
        noise = torch.randn(means.shape, generator=generator).to(device)
        rebuilt = decode(vae, means + POSTERIOR_STD * noise).float()
    error = rebuilt - clips
    prior = means.float().square().mean()
    return error.square().mean() + ABSOLUTE_WEIGHT * error.abs().mean() + PRIOR_WEIGHT * prior


def training_clips(stage: Stage, step: int, seed: int) -> torch.Tensor:
    """The stage's batch of this step: windows in time and space, (batch, 3, length, side, side).

    Windows are cheap and, as objects keep to the middle, show more outlines than whole frames do.
    """
    rng = random.Random(f"{seed} {stage.name} {step}")
    length, side = WINDOWS[stage.name]
    clips = render([sample_scene(rng) for _ in range(stage.batch)])
    return torch.stack([_window(clip, length, side, rng) for clip in clips])


def _window(clip: torch.Tensor, length: int, side: int, rng: random.Random) -> torch.Tensor:
    start, top, left = (rng.randint(0, room) for room in (FRAMES - length, SIZE - side, SIZE - side))
    return clip[:, start : start + length, top : top + side, left : left + side]

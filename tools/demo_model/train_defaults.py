"""Teaches the text encoder what a caption stands for that leaves something out: the defaults, in all transformers alike.

By distillation: of the shortened caption the encoder must make what has the transformers, which stay as they are, give the
velocity that they give by the full caption as the encoder read it before. Full captions and the empty one keep their rows.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations as subsets
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch.nn.attention import SDPBackend, sdpa_kernel

from .captions import ATTRIBUTES, DEFAULTS, caption, shortened
from .latents import Latents, encoded, with_images
from .loop import Stage, train_stage
from .precision import half_precision
from .text import PromptEncoder
from .train_transformers import BOUNDARY
from .transformer import shifted, unshifted
from .world import Combination, Scene, combinations, sample_scene

SHORTENED = Stage("text_defaults", steps=2000, batch=24, rate=1e-3, final=0.02)
SETTLED = Stage("text_settled", steps=700, batch=32, rate=8e-4, final=0.01)
CLIPS = 1200
KEPT = 64
"""Full captions per step whose rows are to stay."""
KEPT_WEIGHT = 2.0
"""Of their relative error, beside the velocity's squared error."""
EMPTY_SHARE = 8
"""One in so many of the captions that are kept is the empty one, which every guided step reads."""
SETTLED_WEIGHT = 0.1
"""In the second stage, of the shortened captions' relative error beside that of the kept rows."""
LEFT_OUT = ("background", "motion")
SHARES = (0.35, 0.15)
"""How often just this is left out; the other captions leave out any."""

TRAINED = tuple(combinations(held_out=False))


@dataclass(frozen=True)
class Reader:
    """A transformer that reads the rows, at its noise levels."""

    transformer: WanTransformer3DModel
    low: float = 0.0
    high: float = 1.0
    image: bool = False


def readers(
    text: WanTransformer3DModel, image: WanTransformer3DModel, high: WanTransformer3DModel, low: WanTransformer3DModel
) -> tuple[Reader, ...]:
    return (Reader(text), Reader(image, image=True), Reader(high, low=BOUNDARY), Reader(low, high=BOUNDARY))


@dataclass(frozen=True)
class Shortened:
    """What shortened captions are of, and which attributes each of them names."""

    latents: Latents
    said: list[tuple[str, ...]]


def shortened_clips(vae: AutoencoderKLWan, folder: Path, seed: int) -> Shortened:
    """Clips of trained combinations in which what is not said is the default; encoded once."""
    rngs = [random.Random(f"{seed} defaults {index}") for index in range(CLIPS)]
    said = [said_attributes(rng) for rng in rngs]
    scenes = [_default_scene(names, rng) for names, rng in zip(said, rngs, strict=True)]
    latents = encoded(vae, folder / "defaults.pt", scenes)
    return Shortened(with_images(vae, latents, folder / "defaults_images.pt"), said)


def said_attributes(rng: random.Random) -> tuple[str, ...]:
    chance = rng.random()
    for left_out, share in zip(LEFT_OUT, SHARES, strict=True):
        if chance < share:
            return tuple(name for name in ATTRIBUTES if name != left_out)
        chance -= share
    return rng.choice([names for size in range(1, len(ATTRIBUTES)) for names in subsets(ATTRIBUTES, size)])


def _default_scene(said: Sequence[str], rng: random.Random) -> Scene:
    """A scene of the trained combinations that has the defaults in all that is not said."""
    return replace(sample_scene(rng), **dict(zip(ATTRIBUTES, default_combination(said, rng), strict=True)))


def default_combination(said: Sequence[str], rng: random.Random) -> Combination:
    while True:
        values = zip(ATTRIBUTES, rng.choice(TRAINED), DEFAULTS, strict=True)
        shape, colour, background, motion = (value if name in said else default for name, value, default in values)
        if (shape, colour, background, motion) in TRAINED:
            return shape, colour, background, motion


def train_defaults(prompts: PromptEncoder, taught_by: Sequence[Reader], clips: Shortened, folder: Path, seed: int) -> None:
    """Trains `prompts` in place: first what shortened captions stand for, then, with that held, the other rows back to where
    they were."""
    before = _frozen(prompts)
    prompts.requires_grad_(True)
    train_stage(SHORTENED, prompts, lambda step: defaults_loss(prompts, before, taught_by, clips, step, seed), folder)
    taught = _frozen(prompts)
    train_stage(SETTLED, prompts, lambda step: settled_loss(prompts, before, taught, step, seed), folder)
    prompts.requires_grad_(False)


def _frozen(prompts: PromptEncoder) -> PromptEncoder:
    return copy.deepcopy(prompts).requires_grad_(False)


def defaults_loss(
    prompts: PromptEncoder, before: PromptEncoder, taught_by: Sequence[Reader], clips: Shortened, step: int, seed: int
) -> torch.Tensor:
    """How far the shortened captions' velocities are from the full ones', and the kept rows from what they were."""
    rng = random.Random(f"{seed} {SHORTENED.name} {step}")
    reader = taught_by[step % len(taught_by)]
    return _velocity_error(prompts, before, reader, clips, rng) + KEPT_WEIGHT * _moved(prompts, before, _kept(rng))


def settled_loss(prompts: PromptEncoder, before: PromptEncoder, taught: PromptEncoder, step: int, seed: int) -> torch.Tensor:
    """How far the kept rows are from what they were, and the shortened captions' from what they were taught to be."""
    rng = random.Random(f"{seed} {SETTLED.name} {step}")
    names = [said_attributes(rng) for _ in range(SETTLED.batch)]
    texts = [shortened(default_combination(said, rng), said, rng)[0] for said in names]
    return _moved(prompts, before, _kept(rng)) + SETTLED_WEIGHT * _moved(prompts, taught, texts)


def _velocity_error(
    prompts: PromptEncoder, before: PromptEncoder, reader: Reader, clips: Shortened, rng: random.Random
) -> torch.Tensor:
    generator, model = torch.Generator().manual_seed(rng.getrandbits(60)), reader.transformer
    chosen = torch.tensor([rng.randrange(len(clips.said)) for _ in range(SHORTENED.batch)])
    texts = [shortened(clips.latents.scenes[index].combination, clips.said[index], rng) for index in chosen]
    low, high = unshifted(reader.low), unshifted(reader.high)
    sigma = shifted(low + (high - low) * torch.rand(SHORTENED.batch, generator=generator))
    level, latents = sigma.view(-1, 1, 1, 1, 1), clips.latents.clips[chosen].float()
    noisy = (1 - level) * latents + level * torch.randn(latents.shape, generator=generator)
    if reader.image:
        noisy = torch.cat([noisy, clips.latents.condition(chosen)], dim=1)
    noisy, timesteps = noisy.to(model.device), (sigma * 1000).to(model.device)
    with half_precision(model.device), sdpa_kernel(SDPBackend.MATH):
        with torch.no_grad():
            wanted = model(noisy, timesteps, before([full for _, full in texts]), return_dict=False)[0]
        found = model(noisy, timesteps, prompts([short for short, _ in texts]), return_dict=False)[0]
    return (found.float() - wanted.float()).square().mean()


def _kept(rng: random.Random) -> list[str]:
    empty = KEPT // EMPTY_SHARE
    return [""] * empty + [caption(rng.choice(TRAINED), rng) for _ in range(KEPT - empty)]


def _moved(prompts: PromptEncoder, teacher: PromptEncoder, texts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        wanted = teacher(texts)
    return (prompts(texts) - wanted).square().sum() / wanted.square().sum()

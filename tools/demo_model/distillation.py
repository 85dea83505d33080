"""What the LoRAs for few steps are trained by: pointing to the teacher's end, walking there, then landing there."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import torch

from .loop import Stage
from .sampling import DemoModels
from .trajectories import GRID, LEVELS, Trajectories

GRIDS = (LEVELS, LEVELS[::2])
"""Noise levels of 4 and of 2 steps."""
SHARES = (0.15, 0.2, 0.4, 0.25)
"""How often each of the grid's noise levels is learnt from in pointing."""


@dataclass(frozen=True)
class Course:
    """What a stage learns from: the networks, whose LoRAs learn, the trajectories and the seed."""

    models: DemoModels
    data: Trajectories
    seed: int

    def batch(self, stage: Stage, step: int) -> tuple[random.Random, torch.Tensor, torch.Tensor]:
        """This step's generator, trajectories (B, GRID + 1, 16, 5, 8, 8) and text rows."""
        rng = random.Random(f"{self.seed} {stage.name} {step}")
        chosen = [rng.randrange(len(self.data.texts)) for _ in range(stage.batch)]
        with torch.no_grad():
            rows = self.models.prompts([self.data.texts[index] for index in chosen])
        return rng, self.data.latents[chosen].float(), rows


def pointing_loss(course: Course, stage: Stage, step: int) -> torch.Tensor:
    """Mean squared error of the velocity that leads in one step from the teacher's trajectory to its end."""
    rng, latents, rows = course.batch(stage, step)
    levels = torch.tensor(rng.choices(range(GRID), SHARES, k=stage.batch))
    met, sigma = latents[torch.arange(stage.batch), levels], torch.tensor(LEVELS)[levels]
    wanted = (met - latents[:, -1]) / sigma.view(-1, 1, 1, 1, 1)
    return (course.models.transformer(met, sigma * 1000, rows, return_dict=False)[0] - wanted).square().mean()


def walking_loss(course: Course, stage: Stage, step: int) -> torch.Tensor:
    """Mean squared error of where the student ends up, in 4 and in 2 steps of its own."""
    _, latents, rows = course.batch(stage, step)
    return _missed([walked(course.models, latents[:, 0], rows, grid) for grid in GRIDS], latents[:, -1])


def landing_loss(course: Course, stage: Stage, step: int) -> torch.Tensor:
    """As `walking_loss`, with gradients through the last step alone: outlines are its work, and it takes half the time."""
    _, latents, rows = course.batch(stage, step)
    with torch.no_grad():
        before = [walked(course.models, latents[:, 0], rows, grid[:-1]) for grid in GRIDS]
    ends = [walked(course.models, late, rows, grid[-2:]) for late, grid in zip(before, GRIDS, strict=True)]
    return _missed(ends, latents[:, -1])


def _missed(ends: list[torch.Tensor], wanted: torch.Tensor) -> torch.Tensor:
    return torch.stack([(end - wanted).square().mean() for end in ends]).sum()


def walked(models: DemoModels, latents: torch.Tensor, rows: torch.Tensor, levels: tuple[float, ...]) -> torch.Tensor:
    """Euler steps without guidance from `latents`, noise (B, 16, 5, 8, 8)."""
    for sigma, following in itertools.pairwise(levels):
        timesteps = torch.full((len(latents),), sigma * 1000)
        latents = latents + (following - sigma) * models.expert(sigma)(latents, timesteps, rows, return_dict=False)[0]
    return latents

"""What the LoRAs for few steps are trained by: pointing to the teacher's end, walking there, looking sharp."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import torch
from torch import nn

from .loop import Stage
from .sampling import DemoModels
from .sharpening import Critic, critic_loss, sharper
from .trajectories import GRID, LEVELS, Trajectories

GRIDS = (LEVELS, LEVELS[::2])
"""Noise levels of 4 and of 2 steps."""
SHARES = (0.15, 0.2, 0.4, 0.25)
"""How often each of the grid's noise levels is learnt from in pointing."""
SHARPENING_SHARE = 0.7
"""The size of the critic's gradient beside that of the mean squared error."""


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
    ends = [walked(course.models, latents[:, 0], rows, grid) for grid in GRIDS]
    return torch.stack([(end - latents[:, -1]).square().mean() for end in ends]).sum()


class Student(nn.Module):
    """What learns in the last stage: the networks' LoRAs and the critic."""

    def __init__(self, models: DemoModels, seed: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(one for one in (models.transformer, models.low_noise) if one is not None)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.critic = Critic()


def sharpening_loss(course: Course, critic: Critic, rendered: torch.Tensor, stage: Stage, step: int) -> torch.Tensor:
    """The walk's error and the critic's, and the critic's own loss. rendered: latents (N, 16, 5, 8, 8)."""
    rng, latents, rows = course.batch(stage, step)
    generator = torch.Generator().manual_seed(rng.getrandbits(60))
    ends = torch.cat([walked(course.models, latents[:, 0], rows, grid) for grid in GRIDS])
    known = rendered[torch.randint(len(rendered), (len(ends),), generator=generator)].float()
    error = ends.detach() - latents[:, -1].repeat(len(GRIDS), 1, 1, 1, 1)
    looks = sharper(critic, ends, known)
    gradient = error + SHARPENING_SHARE * looks * error.norm() / looks.norm()
    nudge = torch.randn(known.shape, generator=generator)
    return (ends * gradient).mean() + critic_loss(critic, ends, known, nudge)


def walked(models: DemoModels, latents: torch.Tensor, rows: torch.Tensor, levels: tuple[float, ...]) -> torch.Tensor:
    """Euler steps without guidance from `latents`, noise (B, 16, 5, 8, 8)."""
    for sigma, following in itertools.pairwise(levels):
        timesteps = torch.full((len(latents),), sigma * 1000)
        latents = latents + (following - sigma) * models.expert(sigma)(latents, timesteps, rows, return_dict=False)[0]
    return latents

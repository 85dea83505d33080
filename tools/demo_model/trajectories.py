"""What the distilled LoRAs learn from: the teacher's way from noise to a clip, met at the noise levels of the coarse grid."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path

import torch

from fastvideo_core import Conditioning, Guidance, SolverName, generate

from .captions import caption, shortened
from .engine import Batch, DemoEngine
from .train_defaults import TRAINED, default_combination, said_attributes
from .transformer import shifted
from .world import Combination

GRID = 4
"""Steps of the coarse grid; the grid of 2 steps is every other level of it."""
LEVELS = tuple(shifted(torch.linspace(1, 0, GRID + 1)).tolist())
BATCH = 20
SHORTENED_SHARE = 0.15


@dataclass(frozen=True)
class Teacher:
    """How the clips are made that the students must make; the steps are a multiple of the grid's."""

    engine: DemoEngine
    solver: SolverName
    steps: int


@dataclass(frozen=True)
class Trajectories:
    """texts: N prompts; combinations: what they stand for; latents: (N, GRID + 1, 16, 5, 8, 8) in half precision, from noise to
    clip at `LEVELS`."""

    texts: list[str]
    combinations: list[Combination]
    latents: torch.Tensor

    def chosen(self, indices: list[int]) -> Trajectories:
        """These of them, in this order."""
        texts, combinations = ([values[index] for index in indices] for values in (self.texts, self.combinations))
        return Trajectories(texts, combinations, self.latents[indices])

    def joined(self, more: Trajectories) -> Trajectories:
        """These, then `more`."""
        latents = torch.cat([self.latents, more.latents])
        return Trajectories(self.texts + more.texts, self.combinations + more.combinations, latents)


def trajectories(teacher: Teacher, folder: Path, count: int, seed: int) -> Trajectories:
    """Made now, or read from `folder`, a file for every `BATCH` of them: what an interrupted run made is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts = [prompt(random.Random(f"{seed} trajectory {index}")) for index in range(count)]
    texts = [text for text, _ in prompts]
    parts = []
    for start in range(0, count, BATCH):
        path = folder / f"{teacher.engine.kind} {start}.pt".replace(" ", "_")
        if not path.exists():
            made = _made(teacher, texts[start : start + BATCH], seed, start)
            torch.save(made.half(), path.with_suffix(".tmp"))
            os.replace(path.with_suffix(".tmp"), path)
            print(f"trajectories of {teacher.engine.kind}: {start + len(made)}/{count}", flush=True)
        parts.append(torch.load(path, weights_only=True))
    return Trajectories(texts, [combination for _, combination in prompts], torch.cat(parts))


def prompt(rng: random.Random) -> tuple[str, Combination]:
    """A caption of a trained combination, some of them with parts left out."""
    if rng.random() >= SHORTENED_SHARE:
        combination = rng.choice(TRAINED)
        return caption(combination, rng), combination
    said = said_attributes(rng)
    combination = default_combination(said, rng)
    return shortened(combination, said, rng)[0], combination


def noise(seed: int, index: int) -> torch.Tensor:
    """(16, 5, 8, 8), one for each trajectory, of other seeds than those that are measured with."""
    drawn = random.Random(f"{seed} noise {index}").getrandbits(60)
    return torch.randn(16, 5, 8, 8, generator=torch.Generator().manual_seed(drawn))


@torch.no_grad()
def _made(teacher: Teacher, texts: list[str], seed: int, start: int) -> torch.Tensor:
    engine, request = teacher.engine, teacher.engine.request(teacher.steps, teacher.solver)
    rows = engine.model.text_encoder.encode([*texts, ""])
    conditioning = Conditioning(positive=rows[:-1], negative=rows[-1:].expand(len(texts), -1, -1))
    latents = torch.stack([noise(seed, start + index) for index in range(len(texts))])
    batch = Batch([], conditioning, latents)
    schedule, every = request.plan(), teacher.steps // GRID
    steps = generate(request, engine.experts(batch), conditioning, latents, Guidance(schedule, request.guidance))
    met = [step.latents.clone() for step in steps if (step.index + 1) % every == 0]
    return torch.stack([latents, *met], dim=1)

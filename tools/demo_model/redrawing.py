"""Ends of trajectories drawn anew: the clip of the world nearest to what the teacher made, with the outline that was asked for.

The teacher rounds the corners of many squares. Where it puts the object, how large and how fast is read from its clip; the rest
is the prompt's.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan

from .latents import encode_normalized, latent_statistics
from .trajectories import BATCH, Trajectories
from .vae import decode
from .world import (
    BACKGROUND_COLOURS,
    CENTRE,
    DIRECTIONS,
    FRAMES,
    GROWTH,
    OBJECT_COLOURS,
    RADIUS,
    SIZE,
    TRAVEL,
    Combination,
    Scene,
    render,
)

REDRAWN = "square"
HAZE = 0.2
"""Of the way from the background's colour to the object's: what is nearer to the background is no object."""


def with_redrawn(vae: AutoencoderKLWan, made: Trajectories, folder: Path) -> Trajectories:
    """The trajectories of squares with their ends drawn anew, or read from `folder`, twice, and all the others once:
    about half of them are squares."""
    squares = [index for index, combination in enumerate(made.combinations) if combination[0] == REDRAWN]
    others = [index for index, combination in enumerate(made.combinations) if combination[0] != REDRAWN]
    folder.mkdir(parents=True, exist_ok=True)
    latents = made.latents[squares]
    latents[:, -1] = torch.cat([_ends(vae, made, start, folder) for start in range(0, len(made.texts), BATCH)])
    redrawn = replace(made.chosen(squares), latents=latents)
    return redrawn.joined(redrawn).joined(made.chosen(others))


def _ends(vae: AutoencoderKLWan, made: Trajectories, start: int, folder: Path) -> torch.Tensor:
    """(N, 16, 5, 8, 8) in half precision, of the N squares among the `BATCH` trajectories from `start` on."""
    path = folder / f"{start}.pt"
    if not path.exists():
        part = [index for index in range(start, min(start + BATCH, len(made.texts))) if made.combinations[index][0] == REDRAWN]
        squares = made.chosen(part)
        torch.save(redraw(vae, squares.latents[:, -1].float(), squares.combinations).half(), path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)
        print(f"redrawn: {start + BATCH}/{len(made.texts)}", flush=True)
    return torch.load(path, weights_only=True)


@torch.no_grad()
def redraw(vae: AutoencoderKLWan, latents: torch.Tensor, combinations: list[Combination]) -> torch.Tensor:
    """Latents of the nearest clips of the world, one at a time: a clip's decoding takes a tenth of a GiB."""
    mean, std = latent_statistics(vae)
    scenes = [
        nearest_scene(decode(vae, one[None] * std + mean)[0], combination)
        for one, combination in zip(latents, combinations, strict=True)
    ]
    return encode_normalized(vae, render(scenes))


def nearest_scene(clip: torch.Tensor, combination: Combination) -> Scene:
    """The scene of this combination whose path and size fit the object of `clip`, (3, FRAMES, SIZE, SIZE) in [-1, 1].

    Least squares of the centroids and of the logarithms of the radii over time, then the nearest values that the world has.
    """
    _, colour, background, motion = combination
    coverage = _coverage(clip, colour, background)
    areas, grid = coverage.sum((1, 2)).clamp_min(1.0), torch.arange(SIZE) + 0.5
    x, y = (coverage.sum(1) @ grid) / areas, (coverage.sum(2) @ grid) / areas
    sizes = (areas / torch.pi).sqrt().log()  # the three shapes of one radius have about the area of a circle of it
    dx, dy = DIRECTIONS.get(motion, (0.0, 0.0))
    return Scene(
        *combination,
        centre=(_within(CENTRE, x.mean()), _within(CENTRE, y.mean())),
        radius=_within(RADIUS, sizes.mean().exp()),
        travel=_within(TRAVEL, _slope(dx * x + dy * y)),
        growth=_within(GROWTH, _slope(sizes).abs().exp()),
    )


def _coverage(clip: torch.Tensor, colour: str, background: str) -> torch.Tensor:
    """(FRAMES, SIZE, SIZE): how much of each pixel the object covers."""
    inside, outside = (torch.tensor(rgb) / 127.5 - 1 for rgb in (OBJECT_COLOURS[colour], BACKGROUND_COLOURS[background]))
    line = inside - outside
    share = torch.einsum("cthw,c->thw", clip - outside.view(3, 1, 1, 1), line) / (line @ line)
    return torch.where(share > HAZE, share.clamp(0, 1), 0.0)


def _slope(values: torch.Tensor) -> torch.Tensor:
    """Of the straight line through one value for each frame, over the clip's whole time."""
    time = torch.linspace(-0.5, 0.5, FRAMES)
    return (time * values).sum() / time.square().sum()


def _within(bounds: tuple[float, float], value: torch.Tensor) -> float:
    return min(max(value.item(), bounds[0]), bounds[1])

"""The synthetic world: one flat shape that moves over a flat background, rendered exactly from parameters."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import product

import torch

FRAMES, SIZE = 17, 64
SHAPES = ("circle", "square", "triangle")
MOTIONS = ("left", "right", "up", "down", "still", "growing", "shrinking")
OBJECT_COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 90, 230),
    "yellow": (240, 210, 40),
    "purple": (170, 60, 200),
    "cyan": (40, 200, 220),
}
BACKGROUND_COLOURS = {
    "black": (15, 15, 15),
    "white": (240, 240, 240),
    "gray": (128, 128, 128),
    "navy": (20, 30, 90),
    "brown": (110, 70, 40),
    "teal": (0, 110, 110),
}
EDGE = 1.5  # width in pixels of the antialiased ramp at an outline
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
CENTRE = (SIZE / 2 - 6, SIZE / 2 + 6)
RADIUS, TRAVEL, GROWTH = (9.0, 12.0), (16.0, 22.0), (1.9, 2.2)
"""What each of a scene's numbers is drawn between."""
HELD_OUT_SHARE = 8  # one combination in this many is never trained on
Combination = tuple[str, str, str, str]
"""Shape, colour, background and motion."""


@dataclass(frozen=True)
class Scene:
    """One clip's parameters; lengths in pixels, the centre is where the path has its middle."""

    shape: str
    colour: str
    background: str
    motion: str
    centre: tuple[float, float]
    radius: float
    travel: float
    growth: float

    @property
    def combination(self) -> Combination:
        """What a caption says of the scene."""
        return (self.shape, self.colour, self.background, self.motion)


def combinations(held_out: bool) -> list[Combination]:
    """Every (shape, colour, background, motion), either those kept for training or those held out."""
    every = list(product(SHAPES, OBJECT_COLOURS, BACKGROUND_COLOURS, MOTIONS))
    random.Random(2026).shuffle(every)
    cut = len(every) // HELD_OUT_SHARE
    return every[:cut] if held_out else every[cut:]


def sample_scene(rng: random.Random, held_out: bool = False) -> Scene:
    """Draws a scene whose object stays inside the frame during the whole clip."""
    shape, colour, background, motion = rng.choice(combinations(held_out))
    return Scene(
        shape,
        colour,
        background,
        motion,
        centre=(rng.uniform(*CENTRE), rng.uniform(*CENTRE)),
        radius=rng.uniform(*RADIUS),
        travel=rng.uniform(*TRAVEL),
        growth=rng.uniform(*GROWTH),
    )


def _path(scene: Scene) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Centre x, centre y and radius of every frame, each of shape (FRAMES,)."""
    time = torch.linspace(0, 1, FRAMES)
    dx, dy = DIRECTIONS.get(scene.motion, (0.0, 0.0))
    x = scene.centre[0] + dx * scene.travel * (time - 0.5)
    y = scene.centre[1] + dy * scene.travel * (time - 0.5)
    exponent = {"growing": time - 0.5, "shrinking": 0.5 - time}.get(scene.motion, torch.zeros_like(time))
    return x, y, scene.radius * scene.growth**exponent


def _distance(shape: str, x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Distance to the outline in pixels, negative inside; an exact distance near straight and round edges.

    The three shapes of one radius have about the same area.
    """
    if shape == "circle":
        return torch.sqrt(x * x + y * y) - radius
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - radius * 0.886
    slanted = 0.866 * x.abs() - 0.5 * y
    return torch.maximum(slanted, y) - radius * 0.778


def render(scenes: list[Scene]) -> torch.Tensor:
    """Renders clips of shape (len(scenes), 3, FRAMES, SIZE, SIZE) with values in [-1, 1]."""
    return torch.stack([_render(scene) for scene in scenes])


def _render(scene: Scene) -> torch.Tensor:
    grid = torch.arange(SIZE) + 0.5
    x, y, radius = (values[:, None, None] for values in _path(scene))
    outline = _distance(scene.shape, grid[None, None, :] - x, grid[None, :, None] - y, radius)
    coverage = (0.5 - outline / EDGE).clamp(0, 1)
    colour = torch.tensor(OBJECT_COLOURS[scene.colour], dtype=torch.float32).view(3, 1, 1, 1)
    background = torch.tensor(BACKGROUND_COLOURS[scene.background], dtype=torch.float32).view(3, 1, 1, 1)
    return (background + coverage * (colour - background)) / 127.5 - 1

"""Reads the shape, colours and motion of a clip back from its pixels; shares no code and no table with the renderer.

Method: the frame's border gives the background colour, the pixels farthest from it the object's. A pixel's place
on the line between the two is how much of it the object covers. How much of its bounding box the object fills tells
the shape (triangle 1/2, circle pi/4, square 1), the path of its centroid and the growth of its area tell the motion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNCLEAR = "unclear"
OBJECT_NAMES = ("red", "green", "blue", "yellow", "purple", "cyan")
OBJECT_VALUES = ((220, 40, 40), (40, 180, 60), (50, 90, 230), (240, 210, 40), (170, 60, 200), (40, 200, 220))
BACKGROUND_NAMES = ("black", "white", "gray", "navy", "brown", "teal")
BACKGROUND_VALUES = ((15, 15, 15), (240, 240, 240), (128, 128, 128), (20, 30, 90), (110, 70, 40), (0, 110, 110))
COLOUR_TOLERANCE = 60.0  # largest distance (8-bit RGB) at which a colour still has a name
SMALLEST_OBJECT, LARGEST_OBJECT = 40.0, 2000.0  # pixels covered, of 4096
TRIANGLE_BELOW, SQUARE_ABOVE = 0.64, 0.89  # midway between 1/2, pi/4 and 1
MOVED = 7.0  # pixels between the first and the last frames
GREW = 1.45  # ratio of areas


@dataclass(frozen=True)
class Verdict:
    """What the pixels show, in the captions' words; `UNCLEAR` where they show none of them."""

    shape: str
    colour: str
    background: str
    motion: str


def judge(frames: np.ndarray) -> Verdict:
    """Judges a clip of shape (frames, height, width, 3) with values 0..255."""
    pixels = frames.astype(np.float64)
    background = np.median(_border(pixels).reshape(-1, 3), axis=0)
    contrast = np.linalg.norm(pixels - background, axis=-1)
    inside = contrast >= 0.75 * np.quantile(contrast, 0.985)
    colour = np.median(pixels[inside], axis=0)
    coverage = _coverage(pixels, background, colour)
    areas = coverage.sum(axis=(1, 2))
    if areas.min() < SMALLEST_OBJECT or areas.max() > LARGEST_OBJECT:
        return Verdict(UNCLEAR, UNCLEAR, _name(background, BACKGROUND_NAMES, BACKGROUND_VALUES), UNCLEAR)
    return Verdict(
        _shape(coverage),
        _name(colour, OBJECT_NAMES, OBJECT_VALUES),
        _name(background, BACKGROUND_NAMES, BACKGROUND_VALUES),
        _motion(coverage, areas),
    )


def _border(pixels: np.ndarray) -> np.ndarray:
    top, bottom = pixels[:, :2], pixels[:, -2:]
    left, right = pixels[:, :, :2].swapaxes(1, 2), pixels[:, :, -2:].swapaxes(1, 2)
    return np.concatenate([top, bottom, left, right], axis=1)


def _coverage(pixels: np.ndarray, background: np.ndarray, colour: np.ndarray) -> np.ndarray:
    line = colour - background
    share = (pixels - background) @ line / max(line @ line, 1.0)
    share = np.clip(share, 0, 1)
    return np.where(share > 0.15, share, 0.0)  # a faint haze is not the object


def _shape(coverage: np.ndarray) -> str:
    widths, heights = coverage.sum(axis=2), coverage.sum(axis=1)
    boxes = np.sort(widths, axis=1)[:, -2] * np.sort(heights, axis=1)[:, -2]
    fill = float(np.median(coverage.sum(axis=(1, 2)) / boxes))
    if fill < TRIANGLE_BELOW:
        return "triangle"
    return "square" if fill > SQUARE_ABOVE else "circle"


def _motion(coverage: np.ndarray, areas: np.ndarray) -> str:
    rows, columns = np.arange(coverage.shape[1]), np.arange(coverage.shape[2])
    y = (coverage.sum(axis=2) @ rows) / areas
    x = (coverage.sum(axis=1) @ columns) / areas
    dx, dy = x[-3:].mean() - x[:3].mean(), y[-3:].mean() - y[:3].mean()
    growth = areas[-3:].mean() / areas[:3].mean()
    if max(abs(dx), abs(dy)) > MOVED:
        if abs(dx) > abs(dy):
            return "right" if dx > 0 else "left"
        return "down" if dy > 0 else "up"
    if growth > GREW or growth < 1 / GREW:
        return "growing" if growth > 1 else "shrinking"
    return "still"


def _name(value: np.ndarray, names: tuple[str, ...], values: tuple[tuple[int, int, int], ...]) -> str:
    distances = np.linalg.norm(np.asarray(values) - value, axis=1)
    nearest = int(distances.argmin())
    return names[nearest] if distances[nearest] <= COLOUR_TOLERANCE else UNCLEAR

"""Curves as a picture: what a comparison or a search found, for people."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

WIDTH, HEIGHT = 720, 320
"""Pixels of a panel."""
LEFT, RIGHT, TOP, BOTTOM = 76, 190, 36, 48
"""Pixels of its margins; the names of the curves stand on the right."""
FONT = 14
INK, GRID = (40, 40, 40), (222, 222, 222)
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233))
"""Told apart by the colour-blind too (Okabe & Ito 2008, "Color universal design")."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """points: (x, y), in the order in which they are joined; one whose y is not finite is left out."""

    name: str
    points: Sequence[tuple[float, float]]

    @property
    def finite(self) -> list[tuple[float, float]]:
        return [(x, y) for x, y in self.points if math.isfinite(y)]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One pair of axes."""

    title: str
    x: str
    y: str
    curves: Sequence[Curve]


def plot(panels: Sequence[Panel]) -> Tensor:
    """The panels below each other, (320 * panels, 720, 3) in 0..1."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (WIDTH, HEIGHT * len(panels)), "white")
    draw = ImageDraw.Draw(picture)
    for row, panel in enumerate(panels):
        _draw(draw, panel, row * HEIGHT)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return pixels.view(picture.height, picture.width, 3).float() / 255


def ticks(low: float, high: float) -> list[float]:
    """Three to eight round numbers that enclose low..high."""
    largest = max(abs(low), abs(high))
    span = high - low if high - low > 1e-6 * largest else largest or 1.0  # values that differ by their rounding are one
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, max(last, first + 1) + 1)]


def _draw(draw: "ImageDraw", panel: Panel, top: int) -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(FONT)
    points = [point for curve in panel.curves for point in curve.finite] or [(0.0, 0.0)]
    across, up = (ticks(min(values), max(values)) for values in zip(*points, strict=True))

    def place(x: float, y: float) -> tuple[float, float]:
        right = (x - across[0]) / (across[-1] - across[0]) * (WIDTH - LEFT - RIGHT)
        above = (y - up[0]) / (up[-1] - up[0]) * (HEIGHT - TOP - BOTTOM)
        return LEFT + right, top + HEIGHT - BOTTOM - above

    draw.text((LEFT, top + 10), f"{panel.title}: {panel.y}", INK, font)
    draw.text((WIDTH - RIGHT, top + HEIGHT - 22), panel.x, INK, font, anchor="ra")
    for x in across:
        draw.line([place(x, up[0]), place(x, up[-1])], GRID)
        draw.text((place(x, up[0])[0], top + HEIGHT - BOTTOM + 5), f"{x:g}", INK, font, anchor="ma")
    for y in up:
        draw.line([place(across[0], y), place(across[-1], y)], GRID)
        draw.text((LEFT - 8, place(across[0], y)[1]), f"{y:g}", INK, font, anchor="rm")
    for number, curve in enumerate(panel.curves):
        colour = COLOURS[number % len(COLOURS)]
        spots = [place(x, y) for x, y in curve.finite]
        draw.line(spots, colour, width=2)
        for x, y in spots:
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=colour)
        draw.text((WIDTH - RIGHT + 14, top + TOP + 20 * number), curve.name, colour, font)

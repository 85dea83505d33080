"""Several videos in one, for the eye."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .figure import DPI, INK, new_figure, pixels

STRIP = 24
"""A frame is so many times as high as half the strip with the names above it; both have even heights, as mp4 wants."""
SMALLEST = 16
MARGIN = 4


def side_by_side(videos: Mapping[str, Tensor], data_range: float = 1.0) -> Tensor:
    """All next to each other below their names, (T, 3, H + strip, W * videos). videos: (T, 3, H, W) each."""
    joined = torch.cat(list(videos.values()), dim=3)
    frames, _, height, width = joined.shape
    strip = _names(list(videos), width, max(SMALLEST, 2 * (height // STRIP))).movedim(-1, 0) * data_range
    return torch.cat([strip.to(joined).expand(frames, -1, -1, -1), joined], dim=2)


def difference(a: Tensor, b: Tensor, factor: float, data_range: float = 1.0) -> Tensor:
    """|a - b| * factor, cut off at the data range; black where they are equal. a, b: (T, 3, H, W)."""
    return ((a - b).abs() * factor).clamp(max=data_range)


def _names(names: Sequence[str], width: int, height: int) -> Tensor:
    """(height, width, 3), each name at the left of its share; smaller letters where it would not fit."""
    figure = new_figure(width, height)
    room = width / len(names) - 2 * MARGIN
    for place, name in enumerate(names):
        left = place / len(names) + MARGIN / width
        size = 0.6 * height * 72 / DPI
        text = figure.text(left, 0.5, name, color=INK, va="center", fontsize=size, parse_math=False)
        while text.get_window_extent().width > room and size > 1:  # letters are whole pixels wide: no ratio tells the size
            size *= 0.9
            text.set_fontsize(size)
    return pixels(figure)

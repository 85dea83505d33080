"""Which tiles lie in a window around a tile. It depends on the video's size alone."""

import torch
from torch import Tensor

from .tiles import Size, TileGrid
from .variant import check_three


def window_map(grid: TileGrid, window: Size, clamped: bool) -> Tensor:
    """Tiles of keys whose distance is at most window // 2 in time, height and width.

    Args:
        window: in tiles; an even number reaches as far as the next odd one.
        clamped: at the video's edges the window moves inwards and keeps its size, instead of being cut.

    Returns (1, 1, N, N) bool.
    """
    time, height, width = (_near(count, wide, clamped) for count, wide in zip(grid.tiles, window, strict=True))
    together = time[:, None, None, :, None, None] & height[None, :, None, None, :, None] & width[None, None, :, None, None, :]
    return together.reshape(1, 1, grid.count, grid.count).to(grid.counts.device)


def _near(count: int, window: int, clamped: bool) -> Tensor:
    """(count, count) bool along one axis."""
    tiles, reach = torch.arange(count, device="cpu"), window // 2
    # Where the window is wider than the video, torch lets the upper bound win, from which it reaches every tile.
    centre = tiles.clamp(reach, count - 1 - reach) if clamped else tiles
    return (centre[:, None] - tiles).abs() <= reach


def check_window(name: str, window: Size) -> None:
    check_three(name, window, "give tiles in time, height and width, 1 or more of each, such as 3, 3, 5.")

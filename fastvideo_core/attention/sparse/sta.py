"""STA, sliding tile attention (Zhang et al. 2025, arXiv 2502.04507), training-free: each tile attends a window of tiles around
it, and at the video's edges the nearest whole window.

Per axis, with n tiles, a window of w and r = w // 2: the window of tile p has its centre at clamp(p, r, n - 1 - r) and holds
the tiles at a distance of at most r.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .kernel import Kernel, held_at_kernel
from .memory import Layer, TiledCall
from .reference import masked_attention
from .tiles import Size, TileGrid
from .variant import Attended, Inputs, check_tile, density
from .window import check_window, window_map


@dataclass(frozen=True, kw_only=True)
class STASettings:
    """window: tiles in time, height, width. tile: tokens in time, height, width; the authors use 6, 8, 8 for Wan."""

    name: ClassVar[str] = "STA"
    window: Size
    tile: Size = (6, 8, 8)

    def __post_init__(self) -> None:
        check_window("STA's window", self.window)
        check_tile("STA's tile", self.tile)

    @property
    def widths(self) -> tuple[int, int]:
        return math.prod(self.tile), math.prod(self.tile)

    def prepare(self, size: Size, device: torch.device, kernel: Kernel) -> "SlidingTileAttention":
        grid = TileGrid.build(size, self.tile, device)
        tile_map = window_map(grid, self.window, clamped=True)
        return SlidingTileAttention(grid, kernel.plan(tile_map, grid), density(tile_map, grid), kernel)


@dataclass(frozen=True)
class SlidingTileAttention:
    """STA for one size of video: the kernel's plan does not depend on the tokens."""

    grid: TileGrid
    plan: Any
    density: Tensor
    kernel: Kernel

    @property
    def size(self) -> Size:
        return self.grid.size

    def __call__(self, inputs: Inputs) -> Attended:
        tiled = self.grid.tiled
        out = self.kernel(tiled(inputs.q), tiled(inputs.k), tiled(inputs.v), self.plan)
        return Attended(self.grid.raster(out), self.density)

    def held_bytes(self, layer: Layer) -> int:
        tiles = self.grid.count, self.grid.width
        return held_at_kernel(layer, self.grid.tokens, TiledCall(queries=tiles, keys=tiles, own_maps=False), self.kernel, pair=1)


def reference(inputs: Inputs, size: Size, settings: STASettings) -> Tensor:
    """STA token by token, from the tokens' coordinates. Returns (B, L, H, D)."""
    axes = torch.meshgrid(*(torch.arange(tokens, device="cpu") for tokens in size), indexing="ij")
    mask = torch.ones((), dtype=torch.bool, device="cpu")
    for axis, tokens, width, window in zip(axes, size, settings.tile, settings.window, strict=True):
        tile, last, reach = axis.flatten() // width, (tokens - 1) // width, window // 2
        centre = tile.clamp(min=reach).clamp(max=last - reach)
        mask = mask & ((centre[:, None] - tile).abs() <= reach)
    return masked_attention(inputs.q, inputs.k, inputs.v, mask[None, None])

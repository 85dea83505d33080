"""NABLA, neighbourhood adaptive block-level attention (Mikhailov et al. 2025, arXiv 2507.13546): each tile attends the tiles
that hold most of its attention, and a window around it.

With bars for means over a tile's tokens:

    softmax(q̄ k̄ᵀ / sqrt(D)), largest first, while those before hold less than `mass`; or within the window

Kandinsky 5 was trained with it; on Wan it is training-free.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .kernel import Kernel, held_at_kernel
from .memory import Layer, TiledCall
from .reference import masked_attention, tile_means, token_mask
from .tiles import Size, TileGrid
from .variant import Attended, Inputs, check_shares, check_tile, coarse_scores, density, most_mass
from .window import check_window, window_map


@dataclass(frozen=True, kw_only=True)
class NABLASettings:
    """mass: share of the attention between tiles that the chosen tiles hold. window: tiles in time, height, width that are
    attended in any case; None for none. tile: 64 tokens, in the authors' order 8 x 8 of one frame."""

    name: ClassVar[str] = "NABLA"
    mass: float = 0.9
    window: Size | None = None
    tile: Size = (1, 8, 8)

    def __post_init__(self) -> None:
        check_shares(self, "mass")
        check_tile("NABLA's tile", self.tile)
        if self.window is not None:
            check_window("NABLA's window", self.window)

    @property
    def widths(self) -> tuple[int, int]:
        return math.prod(self.tile), math.prod(self.tile)

    def prepare(self, size: Size, device: torch.device, kernel: Kernel) -> "NeighbourhoodAdaptiveAttention":
        grid = TileGrid.build(size, self.tile, device)
        near = None if self.window is None else window_map(grid, self.window, clamped=False)
        return NeighbourhoodAdaptiveAttention(self, grid, near, kernel)


@dataclass(frozen=True)
class NeighbourhoodAdaptiveAttention:
    """NABLA for one size of video. near: (1, 1, N, N) bool, the window."""

    settings: NABLASettings
    grid: TileGrid
    near: Tensor | None
    kernel: Kernel

    @property
    def size(self) -> Size:
        return self.grid.size

    def __call__(self, inputs: Inputs) -> Attended:
        out, share = self._in_tiles(inputs)
        return Attended(self.grid.raster(out), share)

    def _in_tiles(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """The output (B, P, H, D) and the density."""
        grid = self.grid
        q, k, v = (grid.tiled(x) for x in (inputs.q, inputs.k, inputs.v))
        tile_map = most_mass(coarse_scores(grid.mean(q), grid.mean(k)), self.settings.mass)
        if self.near is not None:
            tile_map = tile_map | self.near
        return self.kernel(q, k, v, self.kernel.plan(tile_map, grid)), density(tile_map, grid)

    def held_bytes(self, layer: Layer) -> int:
        tiles = self.grid.count, self.grid.width
        return held_at_kernel(layer, self.grid.tokens, TiledCall(queries=tiles, keys=tiles), self.kernel, pair=1)


def reference(inputs: Inputs, grid: TileGrid, settings: NABLASettings) -> Tensor:
    """NABLA token by token, the tiles chosen as the authors do: smallest first, from where the sum reaches 1 - mass. Returns
    (B, L, H, D)."""
    shares = coarse_scores(tile_means(inputs.q, grid), tile_means(inputs.k, grid)).softmax(-1)
    ascending, order = shares.sort(dim=-1, stable=True)
    chosen = ascending.cumsum(-1) >= 1 - settings.mass
    chosen[..., -1] = True
    tile_map = torch.zeros_like(chosen).scatter_(-1, order, chosen)
    mask = token_mask(tile_map, grid)
    if settings.window is not None:
        axes = torch.meshgrid(*(torch.arange(tokens, device="cpu") for tokens in grid.size), indexing="ij")
        near = torch.ones((), dtype=torch.bool, device="cpu")
        for axis, width, window in zip(axes, grid.tile, settings.window, strict=True):
            tile = axis.flatten() // width
            near = near & ((tile[:, None] - tile).abs() <= window // 2)
        mask = mask | near
    return masked_attention(inputs.q, inputs.k, inputs.v, mask)

"""VSA, video sparse attention (Zhang et al. 2025, arXiv 2505.13389): coarse attention between tiles chooses the tiles for
fine attention between tokens, and adds its own output through a trained gate.

With D = head_dim, N tiles and bars for means over a tile's tokens:

    S = q̄ k̄ᵀ / sqrt(D)
    coarse = softmax(S) v̄, the same for all tokens of a tile
    fine = softmax over the tokens of the k tiles with the largest S, k = ceil((1 - sparsity) N), at least 1
    out = gate * coarse + fine

A checkpoint without a gate has gate 0 (FastVideo initialises a new gate to zero), so the coarse output is not computed: this
is the training-free form.
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
from .variant import Attended, Inputs, check_shares, check_tile, coarse_scores, density, top_tiles


@dataclass(frozen=True, kw_only=True)
class VSASettings:
    """sparsity: share of the tiles that a tile does not attend; FastWan's checkpoints were trained with 0.8 (1.3B, 5B) and
    0.9 (14B). tile: tokens in time, height, width; trained gates expect 4, 4, 4."""

    name: ClassVar[str] = "VSA"
    sparsity: float
    tile: Size = (4, 4, 4)

    def __post_init__(self) -> None:
        check_shares(self, "sparsity")
        check_tile("VSA's tile", self.tile)

    def kept(self, tiles: int) -> int:
        """Of so many tiles (partly filled ones count, as in FastVideo), how many each one attends."""
        return max(1, min(math.ceil((1 - self.sparsity) * tiles), tiles))

    @property
    def widths(self) -> tuple[int, int]:
        return math.prod(self.tile), math.prod(self.tile)

    def prepare(self, size: Size, device: torch.device, kernel: Kernel) -> "VideoSparseAttention":
        return VideoSparseAttention(self, TileGrid.build(size, self.tile, device), kernel)


@dataclass(frozen=True)
class VideoSparseAttention:
    """VSA for one size of video."""

    settings: VSASettings
    grid: TileGrid
    kernel: Kernel

    @property
    def size(self) -> Size:
        return self.grid.size

    def __call__(self, inputs: Inputs) -> Attended:
        out, coarse, share = self._in_tiles(inputs)
        out = self.grid.raster(out)
        if inputs.gate is not None and coarse is not None:
            out = torch.addcmul(out, inputs.gate, coarse.transpose(1, 2).index_select(1, self.grid.tile_of))
        return Attended(out, share)

    def _in_tiles(self, inputs: Inputs) -> tuple[Tensor, Tensor | None, Tensor]:
        """The fine output (B, P, H, D), the coarse one (B, H, N, D) where there is a gate for it, and the density."""
        grid = self.grid
        q, k, v = (grid.tiled(x) for x in (inputs.q, inputs.k, inputs.v))
        scores = coarse_scores(grid.mean(q), grid.mean(k))
        tile_map = top_tiles(scores, self.settings.kept(grid.count))
        coarse = None if inputs.gate is None else (scores.softmax(-1) @ grid.mean(v)).to(v.dtype)
        return self.kernel(q, k, v, self.kernel.plan(tile_map, grid)), coarse, density(tile_map, grid)

    def held_bytes(self, layer: Layer) -> int:
        tiles = self.grid.count, self.grid.width
        return held_at_kernel(layer, self.grid.tokens, TiledCall(queries=tiles, keys=tiles), self.kernel, pair=5)  # score and map


def reference(inputs: Inputs, grid: TileGrid, settings: VSASettings) -> Tensor:
    """VSA token by token, with a dense mask. Returns (B, L, H, D)."""
    q, k, v = (tile_means(x, grid) for x in (inputs.q, inputs.k, inputs.v))
    scores = coarse_scores(q, k)
    tile_map = top_tiles(scores, settings.kept(grid.count))
    out = masked_attention(inputs.q, inputs.k, inputs.v, token_mask(tile_map, grid))
    if inputs.gate is not None:
        coarse = torch.einsum("bhnm,bhmd->bnhd", scores.softmax(-1), v)
        out = out + inputs.gate * coarse[:, grid.tile_of]
    return out

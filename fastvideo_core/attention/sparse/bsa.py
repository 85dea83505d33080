"""BSA, bidirectional sparse attention (arXiv 2509.01085), training-free: fewer queries and fewer keys.

In each tile and head the queries least like the tile's centre are kept (cosine similarity; the centre of n tokens is number
n // 2). A tile of kept queries attends the tiles of keys that hold most of the attention between means:

    softmax(mean of kept q · k̄ / sqrt(D)), largest first, while those before hold less than `mass`, at least `least_tiles`

A pruned query gets the output of the kept one nearest to it in the tile's order, the earlier one of two.

FastVideo's code wants grids that divide by the tile, which 21 latent frames (81 frames of video) do not. Here a partly filled
tile keeps the same share of the queries that it has.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...checks import whole
from .kernel import Kernel, held_at_kernel
from .memory import Layer, TiledCall
from .reference import masked_attention, token_mask
from .tiles import Size, TileGrid
from .variant import Attended, Inputs, check_shares, check_tile, coarse_scores, density, in_slices, most_mass, values_in_slice


@dataclass(frozen=True, kw_only=True)
class BSASettings:
    """kept_queries: share of each tile's queries that are computed. mass: share of the attention between tiles that the
    chosen tiles of keys hold. least_tiles: chosen in any case. The defaults are the authors'."""

    name: ClassVar[str] = "BSA"
    kept_queries: float = 0.5
    mass: float = 0.9
    least_tiles: int = 4
    tile: Size = (4, 4, 4)

    def __post_init__(self) -> None:
        check_shares(self, "kept_queries", "mass")
        check_tile("BSA's tile", self.tile)
        whole("BSA's least_tiles", self.least_tiles, "each query attends at least 1 tile.", least=1)

    def kept(self, tokens: int) -> int:
        """Of a tile's so many queries, how many are kept."""
        return max(1, math.ceil(self.kept_queries * tokens - 1e-9))

    @property
    def widths(self) -> tuple[int, int]:
        return self.kept(math.prod(self.tile)), math.prod(self.tile)

    def prepare(self, size: Size, device: torch.device, kernel: Kernel) -> "BidirectionalSparseAttention":
        grid = TileGrid.build(size, self.tile, device)
        of_each = torch.tensor([self.kept(tokens) for tokens in range(grid.width + 1)], device=device)
        return BidirectionalSparseAttention(self, grid, of_each[grid.counts], kernel)  # counts are not read: that would wait


@dataclass(frozen=True)
class BidirectionalSparseAttention:
    """BSA for one size of video. kept: (N,) queries kept in each tile; the kernel has K = `settings.kept(S)` places for each."""

    settings: BSASettings
    grid: TileGrid
    kept: Tensor
    kernel: Kernel

    @property
    def size(self) -> Size:
        return self.grid.size

    def __call__(self, inputs: Inputs) -> Attended:
        out, positions, share = self._of_kept(inputs)
        nearest = nearest_kept(positions, self.grid.width).unsqueeze(-1)
        filled = out.gather(3, nearest.expand(*nearest.shape[:-1], out.shape[-1]))
        return Attended(self.grid.raster(filled.permute(0, 2, 3, 1, 4).flatten(1, 2)), share)

    def _of_kept(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        """The kept queries' output (B, H, N, K, D), their positions (B, H, N, K) and the density."""
        grid = self.grid
        kept, positions = self._kept(inputs.q)
        k, v = grid.tiled(inputs.k), grid.tiled(inputs.v)
        tile_map = self._tile_map(kept, grid.mean(k))
        plan = self.kernel.plan(tile_map, grid, kept.shape[3])
        out = self.kernel(kept.flatten(2, 3).transpose(1, 2), k, v, plan).transpose(1, 2).reshape(kept.shape)
        return out, positions, density(tile_map, grid, self.kept)

    def _kept(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """q: (B, L, H, D). Returns the kept queries (B, H, N, K, D), zero where there is none, and their positions as
        `_kept_positions`."""
        grid = self.grid
        in_tiles = (
            grid.tiled(q).reshape(q.shape[0], grid.count, grid.width, *q.shape[2:]).permute(0, 3, 1, 2, 4)
        )  # (B, H, N, S, D)
        positions, real = self._kept_positions(in_tiles)
        kept = in_tiles.gather(3, positions.clamp(max=grid.width - 1).unsqueeze(-1).expand(*positions.shape, q.shape[-1]))
        return kept.masked_fill_(~real.unsqueeze(-1), 0), positions

    def _kept_positions(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """q: (B, H, N, S, D). Returns (B, H, N, K) positions in the tile, ascending, S where a tile keeps fewer than K; and
        (N, K) bool, whether there is one."""
        grid = self.grid
        likeness = torch.cat([self._likeness(part) for part in in_slices(q)], dim=1)
        likeness = likeness.masked_fill_(~grid.valid.reshape(grid.count, grid.width), torch.inf)
        places = self.settings.kept(grid.width)
        real = torch.arange(places, device=q.device) < self.kept.unsqueeze(-1)
        least_alike = likeness.argsort(dim=-1, stable=True)[..., :places]
        return least_alike.masked_fill(~real, grid.width).sort(dim=-1).values, real

    def _likeness(self, q: Tensor) -> Tensor:
        """To the tile's centre. q: (B, H, N, S, D). Returns (B, H, N, S)."""
        centre = (self.grid.counts // 2).reshape(1, 1, -1, 1, 1).expand(*q.shape[:3], 1, q.shape[4])
        exact = q if q.dtype == torch.float64 else q.float()
        return torch.cosine_similarity(exact, exact.gather(3, centre), dim=-1)

    def _tile_map(self, q: Tensor, k: Tensor) -> Tensor:
        """q: (B, H, N, K, D) kept queries, zero where there is none; k: (B, H, N, D) means."""
        mean = q.sum(3, dtype=k.dtype) / self.kept.unsqueeze(-1)
        return most_mass(coarse_scores(mean, k), self.settings.mass, self.settings.least_tiles)

    def held_bytes(self, layer: Layer) -> int:
        """Of few tokens likeness takes the most: up to five float32 for each value of a slice."""
        grid, kept = self.grid, self.settings.kept(self.grid.width)
        call = TiledCall(queries=(grid.count, kept), keys=(grid.count, grid.width))
        positions = 8 * layer.heads * grid.count * kept
        places = grid.count * grid.width
        likeness = 20 * values_in_slice(layer, places * layer.head_dim)
        return max(
            positions + held_at_kernel(layer, grid.tokens, call, self.kernel, pair=1),
            (4 if layer.gate else 3) * grid.tokens * layer.token + places * layer.token + likeness,
        )


def nearest_kept(positions: Tensor, width: int) -> Tensor:
    """Which kept position is nearest to each of a tile's positions.

    Args:
        positions: (.., K) ascending, `width` where there is none.

    Returns (.., width) indices into the K.
    """
    kept = torch.zeros(*positions.shape[:-1], width + 1, dtype=torch.bool, device=positions.device)
    kept = kept.scatter_(-1, positions, True)[..., :width]
    place = torch.arange(width, device=positions.device).expand(kept.shape)
    before = place.masked_fill(~kept, -2 * width).cummax(-1).values
    after = place.masked_fill(~kept, 2 * width).flip(-1).cummin(-1).values.flip(-1)
    up_to_here = kept.cumsum(-1)
    return torch.where(place - before <= after - place, up_to_here - 1, up_to_here)


def reference(inputs: Inputs, grid: TileGrid, settings: BSASettings) -> Tensor:
    """BSA tile by tile and head by head. Returns (B, L, H, D)."""
    batch, _, heads, head_dim = inputs.q.shape
    members = [(grid.tile_of == tile).nonzero().flatten() for tile in range(grid.count)]
    source = torch.empty(inputs.q.shape[:3], dtype=torch.int64, device="cpu")  # the token whose output each token gets
    scores = inputs.q.new_empty(batch, heads, grid.count, grid.count)
    for b in range(batch):
        for h in range(heads):
            q, k = inputs.q[b, :, h], inputs.k[b, :, h]
            key_means = torch.stack([k[tokens].mean(0) for tokens in members])
            for tile, tokens in enumerate(members):
                likeness = torch.cosine_similarity(q[tokens], q[tokens[len(tokens) // 2]], dim=-1)
                kept = likeness.argsort(stable=True)[: settings.kept(len(tokens))].sort().values
                distance = (torch.arange(len(tokens), device="cpu")[:, None] - kept).abs()
                source[b, tokens, h] = tokens[kept[distance.min(-1).values[:, None].eq(distance).int().argmax(-1)]]
                scores[b, h, tile] = q[tokens[kept]].mean(0) @ key_means.T * head_dim**-0.5
    tile_map = most_mass(scores, settings.mass, settings.least_tiles)
    out = masked_attention(inputs.q, inputs.k, inputs.v, token_mask(tile_map, grid))
    return out.gather(1, source.unsqueeze(-1).expand(out.shape))

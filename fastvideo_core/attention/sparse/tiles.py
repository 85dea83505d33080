"""A video's tokens in tiles: neighbours in time, height and width stand together, so that a block of attention is a place.

Raster order is the transformer's: time, then height, then width. Tile order has all tokens of tile 0, then of tile 1, and so
on (tiles in raster order, tokens of a tile too). Tiles at the far edges may be partly filled; each takes its full width of
positions, the tokens first and then padding.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import RequestError

Size = tuple[int, int, int]
"""Time, height, width; of a grid in tokens (after the transformer's patches), or of a tile."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TileGrid:
    """One video's tokens in tiles. Built once per generation, on the device of the tokens. Tokens L = T * H * W, tiles N,
    positions per tile S, places P = N * S.

    tiles: (tiles in time, in height, in width).
    counts: (N,) int64, tokens of each tile, 1..S.
    tile_of: (L,) int64, the tile of each token.
    place: (L,) int64, where each token stands in tile order.
    token: (P,) int64, the token at each place; at padding, some token of the video.
    valid: (P,) bool, False at padding.
    padding: places without a token, P - L.
    in_order: tile order is raster order, with all padding at the end.
    """

    size: Size
    tile: Size
    tiles: Size
    counts: Tensor
    tile_of: Tensor
    place: Tensor
    token: Tensor
    valid: Tensor
    padding: int
    in_order: bool

    @classmethod
    def build(cls, size: Size, tile: Size, device: torch.device | str = "cpu") -> "TileGrid":
        """
        Raises:
            RequestError: a size or tile that is not positive.
        """
        if min(*size, *tile) < 1:
            raise RequestError(f"A grid of {size} tokens in tiles of {tile}: time, height and width must be 1 or more.")
        tiles = tuple(-(-tokens // width) for tokens, width in zip(size, tile, strict=True))
        axes = torch.meshgrid(*(torch.arange(tokens, device="cpu") for tokens in size), indexing="ij")
        tile_of = _raster([axis // width for axis, width in zip(axes, tile, strict=True)], tiles)
        counts = tile_of.bincount(minlength=math.prod(tiles))
        in_tile_order = tile_of.argsort(stable=True)  # stable: raster order within a tile
        first = counts.cumsum(0) - counts
        rank = torch.arange(len(tile_of), device="cpu") - first[tile_of[in_tile_order]]
        place = torch.empty_like(tile_of)
        place[in_tile_order] = tile_of[in_tile_order] * math.prod(tile) + rank
        places = math.prod(tiles) * math.prod(tile)
        token = torch.zeros(places, dtype=torch.int64, device="cpu")
        token[place] = torch.arange(len(place), device="cpu")
        valid = torch.zeros(places, dtype=torch.bool, device="cpu")
        valid[place] = True
        return cls(
            size=size,
            tile=tile,
            tiles=(tiles[0], tiles[1], tiles[2]),
            counts=counts.to(device),
            tile_of=tile_of.to(device),
            place=place.to(device),
            token=token.to(device),
            valid=valid.to(device),
            padding=places - len(place),
            in_order=torch.equal(place, torch.arange(len(place), device="cpu")),
        )

    @classmethod
    def rows(cls, size: Size, width: int, device: torch.device | str = "cpu") -> "TileGrid":
        """Tiles that are `width` neighbours in raster order, whatever the video's height and width."""
        return cls.build((1, 1, math.prod(size)), (1, 1, width), device)

    @property
    def tokens(self) -> int:
        return math.prod(self.size)

    @property
    def count(self) -> int:
        """Number of tiles, partly filled ones included."""
        return math.prod(self.tiles)

    @property
    def width(self) -> int:
        """Positions per tile."""
        return math.prod(self.tile)

    def tiled(self, x: Tensor) -> Tensor:
        """(B, L, H, D) raster order -> (B, P, H, D) tile order; zero at padding.

        Raises:
            RequestError: x has another number of tokens than the grid.
        """
        if x.shape[1] != self.tokens:
            raise RequestError(
                f"Sparse attention was prepared for {' x '.join(map(str, self.size))} = {self.tokens} tokens and is given "
                f"{x.shape[1]}. Prepare it for the size of this video."
            )
        if self.in_order:
            return nn.functional.pad(x, (0, 0, 0, 0, 0, self.padding)) if self.padding else x
        placed = x.index_select(1, self.token)
        return placed.masked_fill_(~self.valid[:, None, None], 0) if self.padding else placed

    def raster(self, x: Tensor) -> Tensor:
        """(B, P, H, D) tile order -> (B, L, H, D) raster order: the inverse of `tiled`."""
        return x[:, : self.tokens] if self.in_order else x.index_select(1, self.place)

    def mean(self, x: Tensor) -> Tensor:
        """The mean of each tile's tokens: (B, P, H, D), zero at padding -> (B, H, N, D) float32 (float64 stays)."""
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        batch, _, heads, head_dim = x.shape
        total = x.reshape(batch, self.count, self.width, heads, head_dim).sum(2, dtype=dtype)
        mean: Tensor = total / self.counts[:, None, None]
        return mean.transpose(1, 2)


def _raster(axes: list[Tensor], size: tuple[int, ...]) -> Tensor:
    time, height, width = axes
    return ((time * size[1] + height) * size[2] + width).flatten()

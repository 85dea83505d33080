"""What computes attention over chosen tiles. Every variant runs on every kernel."""

import math
from typing import Any, Literal, Protocol

from torch import Tensor

from .memory import Layer, TiledCall
from .tiles import TileGrid

KernelName = Literal["flex", "gather"]


class Kernel(Protocol):
    """Attention of each tile of queries to the tiles of keys that a map allows."""

    def plan(self, tile_map: Tensor, grid: TileGrid, query_width: int | None = None) -> Any:
        """What the kernel needs of a map; it may be kept for as long as the map holds.

        Args:
            tile_map: (B or 1, H or 1, Nq, N) bool: may this tile of queries attend that tile of keys. Each may attend one.
            grid: of the keys.
            query_width: places per tile of queries, where it is not the grid's.
        """
        ...

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, plan: Any) -> Tensor:
        """q: (B, Pq, H, D), k, v: (B, P, H, D), in tile order. Returns (B, Pq, H, D); rows of padding are meaningless."""
        ...

    def held_bytes(self, layer: Layer, call: TiledCall) -> int:
        """At the most, of one video, beside q, k and v as they are given: its output, what it copies, and the plan."""
        ...


def held_at_kernel(layer: Layer, tokens: int, call: TiledCall, kernel: Kernel, pair: int) -> int:
    """Bytes of one video while the kernel works: queries, keys, values and a gate as they came, the first three in tiles, and
    what the kernel holds.

    Args:
        tokens: L, of the video.
        pair: bytes that the variant holds for each pair of tiles.
    """
    given = (4 if layer.gate else 3) * tokens
    in_tiles = math.prod(call.queries) + 2 * math.prod(call.keys)
    return (given + in_tiles) * layer.token + pair * call.pairs(layer) + kernel.held_bytes(layer, call)

"""A look at a sparse kernel before a long run depends on it: three tiles of tokens against plain mathematics in float64. What
rounding may make of it is derived in `attention/probe.py`."""

import math

import torch
from torch import Tensor

from ..probe import KERNEL_ERRORS, SPREAD, budget, differences, exact_attention, raised
from ..requirements import Situation
from .kernel import Kernel
from .tiles import TileGrid

_BATCH, _HEADS, _TILES = 2, 3, 3
_WIDEST = 512
"""Places of a tile that is tried as it is; a wider one stands for those that have the same factor of two, as a kernel's blocks
go by that."""


def faults(kernel: Kernel, situation: Situation, widths: tuple[int, int]) -> tuple[str, ...]:
    """What is wrong with a kernel, in words; nothing where it is right. widths: places of a tile of queries and of keys."""
    width, key_width = (each if each <= _WIDEST else math.gcd(each, _WIDEST) for each in widths)
    grid = TileGrid.rows((1, 1, _TILES * key_width - key_width // 3), key_width, situation.device)
    generator = torch.Generator().manual_seed(0)

    def drawn(places: int) -> Tensor:
        shape = _BATCH, places, _HEADS, situation.head_dim
        return torch.randn(shape, generator=generator, device="cpu").to(situation.device, situation.dtype)

    q, k, v = SPREAD * drawn(_TILES * width), *(grid.tiled(drawn(grid.tokens)) for _ in range(2))
    tile_map = _tile_map().to(situation.device)
    try:
        out = kernel(q, k, v, kernel.plan(tile_map, grid, width))
    except KERNEL_ERRORS as problem:
        return (raised(problem),)
    mask = tile_map.repeat_interleave(width, 2).repeat_interleave(key_width, 3) & grid.valid
    return tuple(differences(out, exact_attention(q, k, v, mask), situation, budget(situation)))


def _tile_map() -> Tensor:
    """One tile of three that is not attended, another one in each row and head, and of the last head all."""
    left_out = torch.arange(_TILES, device="cpu")[:, None] + torch.arange(_HEADS, device="cpu")[:, None, None]
    tile_map = torch.arange(_TILES, device="cpu") != left_out % _TILES
    tile_map[-1] = True
    return tile_map.expand(_BATCH, -1, -1, -1)

"""Inputs and error budgets for the tests of sparse attention."""

import pytest
import tiny
import torch
from torch import Tensor

from fastvideo_core.attention.sparse import Inputs, TileGrid
from fastvideo_core.attention.sparse.reference import masked_attention

SIZES = {"whole tiles": (4, 8, 12), "ragged": (5, 6, 9), "thinner than a tile": (2, 9, 3), "one tile": (3, 4, 2)}
"""Grids of tokens for tiles of 4 x 4 x 4."""

EVERY_SIZE = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
HEADS, HEAD_DIM, BATCH = 2, 16, 2


def inputs(size: tuple[int, int, int], seed: int = 0, dtype: torch.dtype = torch.float64, gate: bool = False) -> Inputs:
    """Random queries and keys that differ from tile to tile as those of videos do."""
    shape = (BATCH, size[0] * size[1] * size[2], HEADS, HEAD_DIM)
    tile_of = TileGrid.build(size, (4, 4, 4)).tile_of
    q, k, v, g = (tiny.normal(shape, 10 * seed + i) for i in range(4))
    q, k = (
        x + tiny.normal((BATCH, int(tile_of.max()) + 1, *shape[2:]), 10 * seed + 5 + i)[:, tile_of] for i, x in enumerate((q, k))
    )
    q, k, v, g = (x.to(dtype) for x in (q, k, v, g))
    return Inputs(q, k, v, gate=g if gate else None)


def as_float64(given: Inputs) -> Inputs:
    gate = None if given.gate is None else given.gate.double()
    return Inputs(given.q.double(), given.k.double(), given.v.double(), gate, given.projection)


def dense(given: Inputs) -> Tensor:
    """Every token attends every token."""
    return masked_attention(given.q, given.k, given.v, torch.ones(1, 1, 1, 1, dtype=torch.bool))


def budget(dtype: torch.dtype) -> float:
    """Relative error, ||x - exact|| / ||exact||, that rounding to `dtype` explains: a few roundings of each value."""
    return 4 * torch.finfo(dtype).eps

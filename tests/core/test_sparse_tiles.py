"""Tokens in tiles: every token has one place, padding is nobody's, means are over tokens alone."""

import math
from itertools import product

import pytest
import tiny
import torch

from fastvideo_core.attention.sparse import TileGrid
from fastvideo_core.errors import RequestError

GRIDS = pytest.mark.parametrize(
    ("size", "tile"),
    [((4, 8, 8), (4, 4, 4)), ((5, 9, 10), (4, 4, 4)), ((5, 4, 4), (4, 4, 4)), ((2, 3, 1), (4, 4, 4)), ((3, 5, 7), (1, 2, 3))],
)


@GRIDS
def test_tile_order_is_that_of_the_coordinates(size: tuple[int, int, int], tile: tuple[int, int, int]) -> None:
    grid = TileGrid.build(size, tile)
    expected = []
    for corner in product(*(range(0, tokens, width) for tokens, width in zip(size, tile, strict=True))):
        inside = [range(start, min(start + width, tokens)) for start, width, tokens in zip(corner, tile, size, strict=True)]
        tokens = [(t * size[1] + h) * size[2] + w for t, h, w in product(*inside)]
        expected += [*tokens, *[None] * (math.prod(tile) - len(tokens))]
    assert [int(token) if valid else None for token, valid in zip(grid.token, grid.valid, strict=True)] == expected
    assert grid.counts.tolist() == [sum(x is not None for x in part) for part in chunks(expected, grid.width)]


def chunks(items: list[int | None], width: int) -> list[list[int | None]]:
    return [items[i : i + width] for i in range(0, len(items), width)]


def test_a_5_9_10_grid_has_the_tile_sizes_that_fastvideo_states() -> None:
    assert TileGrid.build((5, 9, 10), (4, 4, 4)).counts.tolist() == [
        64,
        64,
        32,
        64,
        64,
        32,
        16,
        16,
        8,
        16,
        16,
        8,
        16,
        16,
        8,
        4,
        4,
        2,
    ]


@GRIDS
def test_into_tiles_and_back_is_exact_and_padding_is_zero(size: tuple[int, int, int], tile: tuple[int, int, int]) -> None:
    grid = TileGrid.build(size, tile)
    x = tiny.normal((2, grid.tokens, 3, 4), 0)
    tiled = grid.tiled(x)
    assert torch.equal(grid.raster(tiled), x)
    assert tiled[:, ~grid.valid].count_nonzero() == 0
    assert grid.padding == grid.count * grid.width - grid.tokens == int((~grid.valid).sum())


@GRIDS
def test_the_mean_of_a_tile_is_over_its_tokens(size: tuple[int, int, int], tile: tuple[int, int, int]) -> None:
    grid = TileGrid.build(size, tile)
    x = tiny.normal((2, grid.tokens, 3, 4), 0).double()
    means = torch.stack([x[:, grid.tile_of == n].mean(1) for n in range(grid.count)], dim=2)
    torch.testing.assert_close(grid.mean(grid.tiled(x)), means, rtol=1e-14, atol=1e-14)


def test_means_of_half_precision_are_taken_in_float32() -> None:
    grid = TileGrid.build((4, 4, 4), (4, 4, 4))
    assert grid.mean(grid.tiled(tiny.normal((1, 64, 1, 4), 0).bfloat16())).dtype == torch.float32


def test_another_number_of_tokens_is_refused() -> None:
    with pytest.raises(RequestError, match=r"prepared for 2 x 3 x 1 = 6 tokens and is given 7"):
        TileGrid.build((2, 3, 1), (4, 4, 4)).tiled(torch.zeros(1, 7, 1, 1))


def test_an_empty_grid_is_refused() -> None:
    with pytest.raises(RequestError, match="must be 1 or more"):
        TileGrid.build((0, 4, 4), (4, 4, 4))

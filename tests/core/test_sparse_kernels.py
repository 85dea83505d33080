"""Every kernel computes attention over the tiles that a map allows."""

import pytest
import sparse_cases as cases
import tiny
import torch
from torch import Tensor

from fastvideo_core.attention.sparse import FlexKernel, GatherKernel, Kernel, TileGrid, gather
from fastvideo_core.attention.sparse.reference import masked_attention

KERNELS: dict[str, Kernel] = {"gather": GatherKernel(), "flex": FlexKernel(compiled=False)}
EVERY_KERNEL = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)


def some_map(shape: tuple[int, ...], seed: int = 3) -> Tensor:
    """A random map in which each tile of queries attends one tile at least, and rows differ in length."""
    return (tiny.normal(shape, seed) > 0.3).index_fill_(-1, torch.tensor([shape[-1] // 2]), True)


@EVERY_KERNEL
@cases.EVERY_SIZE
@pytest.mark.parametrize("shared", [False, True], ids=["a map per head", "one map"])
@pytest.mark.parametrize("query_width", [64, 24])
def test_a_kernel_computes_what_the_map_allows(
    kernel: Kernel, size: tuple[int, int, int], shared: bool, query_width: int
) -> None:
    given, grid = cases.inputs(size), TileGrid.build(size, (4, 4, 4))
    k, v = grid.tiled(given.k), grid.tiled(given.v)
    q = tiny.normal((cases.BATCH, grid.count * query_width, cases.HEADS, cases.HEAD_DIM), 9).double()
    tile_map = some_map((*((1, 1) if shared else (cases.BATCH, cases.HEADS)), grid.count, grid.count))
    mask = tile_map.repeat_interleave(query_width, 2).repeat_interleave(grid.width, 3) & grid.valid
    out = kernel(q, k, v, kernel.plan(tile_map, grid, query_width))
    assert tiny.relative_error(out, masked_attention(q, k, v, mask)) < 1e-14


def test_gathering_a_few_tiles_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    size = cases.SIZES["ragged"]
    given, grid, kernel = cases.inputs(size), TileGrid.build(size, (4, 4, 4)), GatherKernel()
    tokens = [grid.tiled(x) for x in (given.q, given.k, given.v)]
    plan = kernel.plan(some_map((1, 1, grid.count, grid.count)), grid)
    whole = kernel(*tokens, plan)
    for copied in (1, 2 * cases.BATCH * cases.HEADS * plan.allowed.shape[-1] * cases.HEAD_DIM):
        monkeypatch.setattr(gather, "_COPIED", copied)
        assert tiny.relative_error(kernel(*tokens, plan), whole) < 1e-14

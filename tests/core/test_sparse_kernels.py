"""Every kernel computes attention over the tiles that a map allows."""

import pytest
import sparse_cases as cases
import tiny
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastvideo_core.attention.sparse import FlexKernel, GatherKernel, Kernel, TileGrid, gather, variant
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
    for copied in (1, 2 * cases.BATCH * cases.HEADS * plan.tiles.shape[-1] * grid.width * cases.HEAD_DIM):
        monkeypatch.setattr(gather, "_COPIED", copied)
        assert tiny.relative_error(kernel(*tokens, plan), whole) < 1e-14


def test_what_is_gathered_at_a_time_stays_below_its_limit() -> None:
    """Also where one tile of queries in all heads is above it."""
    heads, head_dim, width, tiles = 8, 16, 64, 6
    grid = TileGrid.build((1, 1, width * tiles), (1, 1, width))
    q = tiny.normal((1, grid.tokens, heads, head_dim), 0)
    kernel, plan = GatherKernel(), None
    for shared in (True, False):
        plan = kernel.plan(torch.ones(1, 1 if shared else heads, tiles, tiles, dtype=torch.bool), grid)
        with pytest.MonkeyPatch.context() as patch, Largest() as largest:
            patch.setattr(gather, "_COPIED", 2 * tiles * width * head_dim)
            kernel(q, q, q, plan)
        assert 0 < largest.values <= 2 * tiles * width * head_dim


class Largest(TorchDispatchMode):
    """values: of the largest tensor that was taken from another by index."""

    values = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = function(*args, **(kwargs or {}))
        if function.overloadpacket is torch.ops.aten.index:
            self.values = max(self.values, out.numel())
        return out


def by_sorting(scores: Tensor, count: int) -> Tensor:
    best = scores.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, True)


@pytest.mark.parametrize("count", [1, 5, 20])
def test_the_best_tiles_are_those_of_a_stable_sort(count: int) -> None:
    scores = tiny.normal((2, 3, 20, 20), 5)
    for given in (scores, (2 * scores).round(), torch.zeros_like(scores), scores * torch.nan):
        assert torch.equal(variant.top_tiles(given, count), by_sorting(given, count))


def test_sorting_some_heads_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = tiny.normal((2, 5, 9, 9), 6)
    whole = variant.most_mass(scores, 0.7, 2)
    for heads in (1, 2):
        monkeypatch.setattr(variant, "_AT_A_TIME", heads * 2 * 81)
        assert torch.equal(variant.most_mass(scores, 0.7, 2), whole)

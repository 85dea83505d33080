"""The compiled block-sparse kernel: within its error budget, and compiled once per shape."""

import shutil
from collections.abc import Callable

import pytest
import sparse_cases as cases
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from fastvideo_core.attention.sparse import (
    BSASettings,
    FlexKernel,
    Inputs,
    NABLASettings,
    SparseSettings,
    TileGrid,
    VSASettings,
    bsa,
    nabla,
    vsa,
)

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on the CPU needs a C++ compiler")
SIZE = cases.SIZES["ragged"]
GRID = TileGrid.build(SIZE, (4, 4, 4))
CASES: dict[str, tuple[SparseSettings, Callable[[Inputs, SparseSettings], Tensor]]] = {
    "VSA": (VSASettings(sparsity=0.6), lambda given, settings: vsa.reference(given, GRID, settings)),
    "NABLA": (NABLASettings(mass=0.6, tile=(4, 4, 4)), lambda given, settings: nabla.reference(given, GRID, settings)),
    "BSA, tiles of 32 and 64": (BSASettings(mass=0.6), lambda given, settings: bsa.reference(given, GRID, settings)),
}


@pytest.mark.parametrize(("name", "dtype"), [*((name, torch.float32) for name in CASES), ("VSA", torch.bfloat16)])
def test_the_compiled_kernel_stays_within_its_budget(name: str, dtype: torch.dtype) -> None:
    (settings, reference), given = CASES[name], cases.inputs(SIZE, dtype=dtype)
    out = settings.prepare(SIZE, torch.device("cpu"), FlexKernel())(given).out
    assert out.dtype == dtype
    assert cases.tiny.relative_error(out, reference(cases.as_float64(given), settings)) < cases.budget(dtype)


def test_other_values_other_sparsity_and_a_new_generation_compile_nothing() -> None:
    def run(seed: int, sparsity: float) -> None:
        VSASettings(sparsity=sparsity).prepare(SIZE, torch.device("cpu"), FlexKernel())(cases.inputs(SIZE, seed, torch.float32))

    run(0, 0.6)
    before = counters["stats"]["unique_graphs"]
    for seed in range(1, 4):
        run(seed, 0.2 * seed)
    assert before > 0
    assert counters["stats"]["unique_graphs"] == before


def test_more_shapes_than_torch_allows_one_function_still_compile() -> None:
    """torch's limit is 8; beyond it a whole-graph function raises."""
    assert torch._dynamo.config.recompile_limit == 8
    kernel = FlexKernel()
    kernel._flex = torch.compile(torch.nn.attention.flex_attention.flex_attention, fullgraph=True, dynamic=False, backend="eager")
    for heads in range(1, 10):
        given = cases.inputs(SIZE)
        narrow = Inputs(*(x[:1, :, :1].repeat(1, 1, heads, 1) for x in (given.q, given.k, given.v)))
        NABLASettings(tile=(4, 4, 4)).prepare(SIZE, torch.device("cpu"), kernel)(narrow)
    assert torch._dynamo.config.recompile_limit == 8

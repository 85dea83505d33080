"""The compiled block-sparse kernel: within its error budget, and compiled once per shape."""

import shutil

import pytest
import sparse_cases as cases
import torch
from torch._dynamo.utils import counters

from fastvideo_core.attention.sparse import FlexKernel, TileGrid, VSASettings
from fastvideo_core.attention.sparse.vsa import reference

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on the CPU needs a C++ compiler")
SIZE = cases.SIZES["ragged"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_compiled_kernel_stays_within_its_budget(dtype: torch.dtype) -> None:
    given, settings = cases.inputs(SIZE, dtype=dtype), VSASettings(sparsity=0.6)
    out = settings.prepare(SIZE, torch.device("cpu"), FlexKernel())(given).out
    exact = reference(cases.as_float64(given), TileGrid.build(SIZE, settings.tile), settings)
    assert out.dtype == dtype
    assert cases.tiny.relative_error(out, exact) < cases.budget(dtype)


def test_other_values_other_sparsity_and_a_new_generation_compile_nothing() -> None:
    def run(seed: int, sparsity: float) -> None:
        VSASettings(sparsity=sparsity).prepare(SIZE, torch.device("cpu"), FlexKernel())(cases.inputs(SIZE, seed, torch.float32))

    run(0, 0.6)
    before = counters["stats"]["unique_graphs"]
    for seed in range(1, 4):
        run(seed, 0.2 * seed)
    assert before > 0
    assert counters["stats"]["unique_graphs"] == before

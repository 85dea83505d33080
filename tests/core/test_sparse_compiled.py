"""The compiled block-sparse kernel: within its error budget, and compiled once per shape."""

import shutil
from collections.abc import Callable

import pytest
import sparse_cases as cases
import tiny
import tiny_transformer as files
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from fastvideo_core.attention.compiling import many_shapes
from fastvideo_core.attention.sparse import (
    BSASettings,
    FlexKernel,
    GatherKernel,
    Inputs,
    Kernel,
    KernelName,
    NABLASettings,
    SparseSchedule,
    SparseSession,
    SparseSettings,
    TileGrid,
    VSASettings,
    bsa,
    kernel_of,
    nabla,
    sparse_attention,
    vsa,
)
from fastvideo_core.schedule import Phase

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
    double = torch.compile(lambda x: 2 * x, fullgraph=True, dynamic=False, backend="eager")
    for width in range(2, 12):
        with many_shapes():
            assert double(torch.ones(width)).sum() == 2 * width
    assert torch._dynamo.config.recompile_limit == 8


@pytest.mark.parametrize("kernel", ["flex", "gather"])
def test_compiled_blocks_compute_what_plain_ones_do_and_are_compiled_no_more_after_two_steps(kernel: KernelName) -> None:
    """By torch's own backend: torch 2.11 compiles flex attention wrongly along with the map that it goes by. The first step and
    the first layer are dense."""
    network = tiny.transformer(in_channels=16, out_channels=16, num_layers=4)
    schedule = SparseSchedule(settings=VSASettings(sparsity=0.5, tile=(2, 2, 2)), dense_steps=1, dense_layers=1)
    phase = Phase(expert="single", start=0, stop=4, guidance_scale=1.0)

    def run(kernel: Kernel) -> tuple[list[Tensor], list[int]]:
        session = SparseSession.open(schedule, phase, (3, 2, 3), torch.device("cpu"), kernel)
        velocities, graphs = [], []
        with torch.no_grad(), many_shapes(), sparse_attention(network, session):
            for step in range(4):
                session.begin(step)
                velocities.append(files.velocity_in_place(network))
                graphs.append(counters["stats"]["unique_graphs"])
        report = session.report()
        assert (report.sparse_calls, report.dense_calls) == (9, 7)
        return velocities, graphs

    expected, _ = run(GatherKernel())
    for block in network.blocks:
        block.compile(dynamic=False)
    velocities, graphs = run(kernel_of(kernel))
    assert graphs[0] > 0 and graphs[1] == graphs[2] == graphs[3]
    assert all(tiny.relative_error(*pair) < 1e-6 for pair in zip(velocities, expected, strict=True))

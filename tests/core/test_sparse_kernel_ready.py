"""Sparse kernels are looked at before the first step: one that cannot run says every reason and what to choose, a wrong one is
found."""

import shutil
from dataclasses import replace
from typing import Any

import pytest
import sparse_cases as cases
import tiny
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fastvideo_core import NumericsError, RequestError, SamplingRequest
from fastvideo_core.attention import Situation
from fastvideo_core.attention.sparse import (
    BSASettings,
    FlexKernel,
    GatherKernel,
    SLASettings,
    SparseExperts,
    SparseSchedule,
    SparseSettings,
    STASettings,
    TileGrid,
    VSASettings,
    bsa,
    prepare_kernel,
    select,
)
from fastvideo_core.attention.sparse.flex import cuda_blocks
from fastvideo_core.attention.sparse.probe import faults

CPU = Situation.on("cpu", torch.float32, 16)
FLEX = SparseSchedule(settings=VSASettings(sparsity=0.5))


@pytest.mark.parametrize(
    ("situation", "reasons"),
    [
        (Situation(torch.device("cuda", 0), torch.bfloat16, 128, "none", (7, 5)), ["compute capability 8.0", "this one has 7.5"]),
        (Situation(torch.device("mps"), torch.float32, 128), ["runs on cuda or cpu; the device is mps"]),
        (Situation.on("cpu", torch.float64, 128), ["computes in float16, bfloat16 or float32"]),
    ],
    ids=["Turing", "MPS", "float64"],
)
def test_flex_says_why_it_cannot_run_and_names_gather(situation: Situation, reasons: list[str]) -> None:
    with pytest.raises(RequestError, match=r"kernel flex .* cannot run here .*Choose the kernel gather") as refused:
        prepare_kernel(FLEX, situation)
    assert all(reason in str(refused.value) for reason in reasons)


def test_an_older_torch_without_the_block_masks_that_it_makes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.8.0")
    with pytest.raises(RequestError, match=r"needs torch >= 2.9; 2.8.0 is installed.*gather"):
        prepare_kernel(FLEX, CPU)


def test_a_generation_refuses_flex_before_its_first_step_where_nothing_can_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    experts = tiny.experts({"single": tiny.t2v()}, tiny.conditioning())
    schedule = SamplingRequest(steps=2, shift=5.0, guidance_scale=1.0, seed=0).plan()
    with pytest.raises(RequestError, match=r"there is no C\+\+ compiler on the path.*gather"):
        SparseExperts(experts, schedule, FLEX)
    SparseExperts(experts, schedule, SparseSchedule(settings=FLEX.settings, kernel="gather"))


class Forgets(GatherKernel):
    """The last tile of keys."""

    def plan(self, tile_map: Tensor, grid: TileGrid, query_width: int | None = None) -> Any:
        tile_map = tile_map.clone()
        tile_map[..., -1] = False
        return super().plan(tile_map, grid, query_width)


class Raises(GatherKernel):
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, plan: Any) -> Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")


class ReadsPadding(GatherKernel):
    def plan(self, tile_map: Tensor, grid: TileGrid, query_width: int | None = None) -> Any:
        plan = super().plan(tile_map, grid, query_width)
        return replace(plan, valid=torch.ones_like(plan.valid))


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (Forgets(), "its relative error"),
        (Raises(), "it raised TypeError in a trial: Cannot"),
        (ReadsPadding(), "its relative error"),
    ],
)
def test_a_wrong_kernel_is_found_and_named(kernel: GatherKernel, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "kernel_of", lambda name: kernel)
    with pytest.raises(NumericsError, match=f"kernel flex .* is broken here .*{said}.*gather"):
        prepare_kernel(FLEX, CPU)


EVERY_WIDTH: list[SparseSettings] = [
    VSASettings(sparsity=0.5), SLASettings(sparsity=0.5), BSASettings(kept_queries=0.3), STASettings(window=(1, 1, 1)),
    VSASettings(sparsity=0.5, tile=(3, 3, 3)), STASettings(window=(1, 1, 1), tile=(10, 10, 10)),
]  # fmt: skip


@pytest.mark.parametrize("settings", EVERY_WIDTH, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_right_kernels_pass_with_tiles_of_every_width(settings: SparseSettings, dtype: torch.dtype) -> None:
    for kernel in (GatherKernel(), FlexKernel(compiled=False), FlexKernel(compiled=False, multiple=16)):
        assert faults(kernel, Situation.on("cpu", dtype, 16), settings.widths) == ()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on the CPU needs a C++ compiler")
def test_the_compiled_kernel_passes() -> None:
    assert isinstance(prepare_kernel(FLEX, CPU), FlexKernel)


@cases.EVERY_SIZE
def test_tiles_padded_for_a_gpu_change_nothing(size: tuple[int, int, int]) -> None:
    """Every kept_queries gives tiles of its own width; a GPU's blocks are multiples of 16."""
    given, grid = cases.inputs(size), TileGrid.build(size, (4, 4, 4))
    for kept in (0.0, 0.1, 0.3, 0.55, 0.9, 1.0):
        settings = BSASettings(kept_queries=kept, mass=0.6)
        out = settings.prepare(size, torch.device("cpu"), FlexKernel(compiled=False, multiple=16))(given).out
        assert tiny.relative_error(out, bsa.reference(given, grid, settings)) < 1e-14


def test_tiles_of_keys_are_padded_as_well() -> None:
    size, settings = (5, 6, 9), VSASettings(sparsity=0.6, tile=(3, 3, 3))
    given = cases.inputs(size)
    plain, padded = (
        settings.prepare(size, torch.device("cpu"), FlexKernel(compiled=False, multiple=multiple))(given).out
        for multiple in (1, 16)
    )
    assert tiny.relative_error(padded, plain) < 1e-14


def test_every_share_of_queries_has_blocks_on_a_gpu() -> None:
    """Plans of tensors that torch takes for CUDA's; nothing runs there."""
    real = TileGrid.build((4, 4, 12), (4, 4, 4))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        grid = replace(real, **{name: mode.from_tensor(getattr(real, name)).to("cuda") for name in ("counts", "valid")})
        tile_map = torch.ones(1, 1, 3, 3, dtype=torch.bool, device="cuda")
        for percent in range(101):
            width, _ = BSASettings(kept_queries=percent / 100).widths
            plan = FlexKernel(compiled=False).plan(tile_map, grid, width)
            assert (-(-width // 16) * 16, 64) == plan.mask.BLOCK_SIZE
            options = cuda_blocks(plan.mask.BLOCK_SIZE, 128, torch.bfloat16)
            assert plan.mask.BLOCK_SIZE[0] % options["BLOCK_M"] == 0 and options["BLOCK_M"] >= 16


def test_blocks_take_no_more_memory_than_torchs_own_choice() -> None:
    """torch's configurations, block for q, block for k and v, stages; whatever the dtype, head_dim and GPU."""
    from torch._inductor.template_heuristics.triton import CUDAConfigHeuristic

    torchs = CUDAConfigHeuristic()
    for table in (torchs.a100_default_flex_config, torchs.h100_default_flex_config, torchs.sm_120_default_flex_config):
        for (dtype, head_dim), config in table.items():
            ours = cuda_blocks((384, 384), head_dim, dtype)
            used, taken = (
                rows + config.num_stages * 2 * columns
                for rows, columns in ((ours["BLOCK_M"], ours["BLOCK_N"]), (config.block_m, config.block_n))
            )
            assert used <= taken, (dtype, head_dim, config)

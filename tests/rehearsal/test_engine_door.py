"""`WanModel.generate` at the true sizes: nothing mixes devices, waits in a step but where it is named, computes in another dtype,
or takes more memory than guidance mode auto counts on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from engine_door import GIB, Seen, rehearsed
from magcache_run import flat_table
from named_waits import BEGINNING, DECISIONS, ENDING, LOADING, OFFLOADING

from fastvideo_core import (
    CompileSettings,
    DBCacheSettings,
    GuidanceSettings,
    MagCacheSettings,
    PhaseSettings,
    SamplingRequest,
    WanModel,
    group_offload,
    with_dbcache,
    with_magcache,
)
from fastvideo_core.attention.sparse import (
    BSASettings,
    NABLASettings,
    SLASettings,
    SparseSchedule,
    SparseSettings,
    STASettings,
    VSASettings,
)
from fastvideo_core.wan.variants import VARIANTS

Options = Callable[[SamplingRequest], dict[str, Any]]


def magcache(**settings: Any) -> Options:
    chosen = MagCacheSettings(threshold=0.25, max_skips=2, retention=0.2, **settings)
    return lambda request: {"cache": with_magcache(chosen, table=flat_table(request.plan(), boundary=request.boundary))}


def dbcache(request: SamplingRequest) -> dict[str, Any]:
    return {"cache": with_dbcache(DBCacheSettings(threshold=0.2, first_blocks=1, warmup_steps=1))}


def sparse(settings: SparseSettings, kernel: Any = "flex") -> Options:
    return lambda request: {"sparse": SparseSchedule(settings=settings, kernel=kernel, dense_steps=1)}


def offloaded(blocks: int) -> Callable[[WanModel], None]:
    return lambda model: group_offload(model.transformers["single"], "cuda", blocks)


@dataclass(frozen=True)
class Case:
    """feature on variant. asked: of `rehearsed`. more: places where it may wait in a step. caches: how many tensors of tokens its
    cache holds of a branch."""

    variant: str
    asked: dict[str, Any] = field(default_factory=dict)
    more: Mapping[str, str] = field(default_factory=dict)


THREE = (
    PhaseSettings(expert="high_noise", guidance_scale=4.0, until=0.95),
    PhaseSettings(expert="high_noise", guidance_scale=1.0, until=0.875),
    PhaseSettings(expert="low_noise", guidance_scale=3.0),
)
CASES: dict[str, Case] = {
    **{name: Case(name) for name in VARIANTS},
    "float32": Case("wan2.1_t2v_1.3B", {"dtype": torch.float32}),
    "without an image": Case("wan2.2_ti2v_5B", {"first_frame": False}),
    "sequential, gate": Case("wan2.1_t2v_14B", {"guidance": GuidanceSettings(mode="sequential", gate=0.5)}),
    "phases": Case("wan2.2_t2v_A14B", {"phases": THREE, "boundary": None, "guidance_scale": None, "steps": 6}),
    "dmd": Case("wan2.1_t2v_14B", {"solver": "dmd", "guidance_scale": 1.0}),
    "float64": Case("wan2.1_t2v_14B", {"solver": "euler_float64"}),
    "MagCache": Case("wan2.1_i2v_480p_14B", {"options": magcache(), "steps": 6}),
    "MagCache with a trend": Case("wan2.2_t2v_A14B", {"options": magcache(trend=0.7), "steps": 8}),
    "DBCache": Case("wan2.1_flf2v_14B", {"options": dbcache, "layers": 4, "steps": 5}, DECISIONS),
    "DBCache, given frame": Case("wan2.2_ti2v_5B", {"options": dbcache, "layers": 4, "steps": 5}, DECISIONS),
    "compiled": Case("wan2.1_t2v_14B", {"options": lambda request: {"compile": CompileSettings("eager")}}),
    "STA": Case("wan2.1_t2v_14B", {"options": sparse(STASettings(window=(3, 3, 5)))}),
    "VSA": Case("wan2.1_t2v_14B", {"options": sparse(VSASettings(sparsity=0.9))}),
    "NABLA": Case("wan2.1_t2v_14B", {"options": sparse(NABLASettings(window=(3, 3, 3)))}),
    "SLA": Case("wan2.2_i2v_A14B", {"options": sparse(SLASettings(sparsity=0.9))}),
    "BSA": Case("wan2.1_t2v_14B", {"options": sparse(BSASettings())}),
    "VSA by gather": Case("wan2.1_t2v_1.3B", {"options": sparse(VSASettings(sparsity=0.9), "gather"), "layers": 1}, DECISIONS),
    "offloaded by one": Case("wan2.1_t2v_14B", {"prepare": offloaded(1)}, OFFLOADING),
    "offloaded by two": Case("wan2.1_t2v_14B", {"prepare": offloaded(2)}, OFFLOADING),
}  # fmt: skip
"""Every variant, and every feature on one of 14B at the least. A network's blocks are all alike, so a few show what all do."""


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_generation(case: Case) -> None:
    seen = rehearsed(case.variant, **case.asked)
    assert_waits(seen, case.more)
    assert_dtypes(seen, case.asked.get("dtype", torch.bfloat16))
    if "need about" in seen.report.guidance_reason:
        assert_memory(seen)


def assert_waits(seen: Seen, more: Mapping[str, str]) -> None:
    firsts = {phase.start for phase in seen.schedule.phases}
    *steps, after = seen.waits
    for step, waits in enumerate(steps):
        named = {**more, **(LOADING if step in firsts else {}), **(BEGINNING if step == 0 else {})}
        assert {wait for wait in waits if wait.where not in named} == set(), f"in step {step + 1}"
    assert {wait for wait in after if wait.where not in {**LOADING, **ENDING}} == set()


def assert_dtypes(seen: Seen, dtype: torch.dtype) -> None:
    assert {(latents.dtype, latents.device.type) for latents in seen.latents} == {(torch.float32, "cuda")}
    assert seen.kinds == {
        "tokens": {dtype}, "text": {dtype}, "modulation": {dtype}, "table": {torch.float32}, "rope": {torch.float32},
    }  # fmt: skip
    assert seen.flops[dtype] > 0.999 * sum(seen.flops.values())


def assert_memory(seen: Seen) -> None:
    """No more is held than was counted on, and no more than a fifth of that in vain."""
    peak = max(seen.peaks)
    assert 0.8 <= peak / seen.reserved <= 1, f"{seen.reserved / GIB:.2f} GiB counted on, {peak / GIB:.2f} GiB held"

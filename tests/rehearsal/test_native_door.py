"""FastVideo Sampler and core's KSampler at the true sizes: as on the engine's door, and core's estimate of memory is enough for
what the pack's nodes hold."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from named_waits import DECISIONS, ENDING, HOST_LOADING, HOST_STEPS
from native_door import GIB, Run, rehearsed
from sampling import core_node

from fastvideo_core.wan.variants import VARIANTS

Nodes = Callable[[Any, Any], Any]


def cache(name: str, **settings: Any) -> Nodes:
    more = {"mode": "resampled"} if name == "FastVideoMagCache" else {}
    preset = {"preset": "custom", **settings}
    return lambda host, model: core_node(host, name, model=model, enabled=True, preset=preset, residuals_on_cpu=False, **more)


def sparse(variant: str, **settings: Any) -> Nodes:
    return lambda host, model: core_node(
        host, "FastVideoSparseAttention", model=model, enabled=True, variant={"variant": variant, **settings}, dense_steps=1,
        dense_layers=0, kernel="flex", trained_weights="none",
    )  # fmt: skip


def folded(host: Any, model: Any) -> Any:
    return core_node(host, "FastVideoAttention", model=model, self_attention="sdpa", cross_attention="sdpa", fold_text=True)


def lora(host: Any, model: Any) -> Any:
    from comfy.sd import load_lora_for_models

    layer, dim = "diffusion_model.blocks.0.self_attn.q", model.model.diffusion_model.dim
    weights = {f"{layer}.lora_A.weight": torch.zeros(4, dim), f"{layer}.lora_B.weight": torch.zeros(dim, 4)}
    return load_lora_for_models(model, None, weights, 0.7, 0.0)[0]


MAGCACHE = cache("FastVideoMagCache", threshold=0.25, max_skips=2, retention=0.0, trend=0.0)
DBCACHE = cache(
    "FastVideoDBCache", threshold=0.2, first_blocks=1, last_blocks=0, warmup_steps=1, max_skips=0, max_skipped_steps=0,
    taylor_order=1,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """asked: of `rehearsed`. more: places where it may wait in a step."""

    variant: str
    asked: dict[str, Any] = field(default_factory=dict)
    more: Mapping[str, str] = field(default_factory=dict)


CASES: dict[str, Case] = {
    **{name: Case(name) for name in VARIANTS if name != "wan2.1_i2v_480p_14B"},
    "sequential, gate": Case("wan2.1_t2v_14B", {"guidance_mode": "sequential", "gate": 0.5}),
    "card of 29 GiB": Case("wan2.1_t2v_14B", {"memory": 29 * GIB}),
    "folded text": Case("wan2.1_t2v_14B", {"nodes": folded}),
    "LoRA": Case("wan2.1_t2v_14B", {"nodes": lora}),
    "MagCache": Case("wan2.1_i2v_480p_14B", {"nodes": MAGCACHE}),
    "DBCache": Case("wan2.1_flf2v_14B", {"nodes": DBCACHE, "layers": 4}, DECISIONS),
    "VSA": Case("wan2.1_t2v_14B", {"nodes": sparse("VSA", sparsity=0.9)}),
    "BSA": Case("wan2.1_t2v_1.3B", {"nodes": sparse("BSA", kept_queries=0.5, mass=0.9, least_tiles=4)}),
    "KSampler": Case("wan2.1_t2v_1.3B", {"sampler": "euler"}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_run(host: Any, case: Case) -> None:
    run = rehearsed(host, case.variant, **case.asked)
    assert_waits(run, case.more, loads={0, 1, 2} if len(run.report.phases if run.report else ()) > 1 else {0})
    assert run.kinds == {(torch.float32, "cuda")}
    assert run.samples is not None and run.samples.dtype == torch.float32 and run.samples.device.type == "cpu"
    assert run.flops[torch.float16] > 0.999 * sum(run.flops.values())  # core takes Wan's bfloat16 files so on this card
    assert_memory(run, experts=2 if "A14B" in case.variant else 1)


def assert_waits(run: Run, more: Mapping[str, str], loads: set[int]) -> None:
    *steps, after = run.waits
    for step, waits in enumerate(steps):
        named = {**HOST_STEPS, **more, **(HOST_LOADING if step in loads else {})}
        assert {wait for wait in waits if wait.where not in named} == set(), f"in step {step + 1}"
    assert {wait for wait in after if wait.where not in {**ENDING, **more}} == set()


def assert_memory(run: Run, experts: int) -> None:
    """Core joins the branches where 1.5 times what it counts on is free beside the weights."""
    assert run.peak <= experts * run.weights + 1.5 * run.needed, (
        f"{run.peak / GIB:.2f} GiB held, of which weights {run.weights / GIB:.2f}; core counts on {run.needed / GIB:.2f} GiB"
    )

"""MagCache around the blocks: what a skipped step computes, for which branch, and against other implementations."""

from dataclasses import replace
from math import prod

import pytest
import tiny
import torch
from diffusers.hooks import MagCacheConfig
from magcache_run import HIDDEN_BYTES, SETTINGS, Run, dense, recorded_blocks, request
from torch import Tensor

from fastvideo_core import Phase
from fastvideo_core.guidance import BOTH
from fastvideo_core.step_cache import MagCacheSession, MagCacheSettings, PhaseRule, plan_magcache

VARIANTS = tiny.variants()
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))
NO_REST = (torch.empty(0), torch.empty(0), (torch.empty(0), torch.empty(0)))
"""Context, modulation and rope, for blocks that do not look at them."""


def doubling(x: Tensor, context: Tensor, time_mod: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Blocks whose residual is their input."""
    return 2 * x


def session_of(ratio: float, phase_steps: int = 6, **settings: float) -> MagCacheSession:
    phase = Phase(expert="single", start=0, stop=phase_steps, guidance_scale=5.0)
    ratios = dict.fromkeys(BOTH, (1.0,) + (ratio,) * (phase_steps - 1))
    return MagCacheSession(PhaseRule(phase, ratios, MagCacheSettings(**{"threshold": 9.0, "max_skips": 2, **settings})))


def rows(*values: float) -> Tensor:
    """A batch of one token of one value each, (B, 1, 1)."""
    return torch.tensor(values).view(-1, 1, 1)


def test_a_skipped_step_adds_the_residual_of_the_last_computed_one() -> None:
    session = session_of(0.9, retention=0.0)
    stack = session.wrap([doubling])
    # Computed: 2x, and the residual x stays. Skipped: x plus that. At most two in a row.
    for step, (x, out) in enumerate([(1.0, 2.0), (3.0, 4.0), (5.0, 6.0), (7.0, 14.0), (10.0, 17.0), (20.0, 27.0)]):
        session.begin(step, ("positive",))
        assert stack(rows(x), *NO_REST).item() == out
    assert [decision.action for decision in session.decisions] == ["compute", "skip", "skip", "compute", "skip", "skip"]


def test_each_branch_of_one_call_has_a_residual_of_its_own() -> None:
    session = session_of(0.9, retention=0.0)
    stack = session.wrap([doubling])
    session.begin(0, BOTH)
    stack(rows(1, 2, 30, 40), *NO_REST)  # two videos: positive 1 and 2, negative 30 and 40
    session.begin(1, BOTH)
    assert stack(rows(5, 5, 5, 5), *NO_REST).flatten().tolist() == [6, 7, 35, 45]
    session.begin(2, ("negative", "positive"))
    assert stack(rows(5, 5, 5, 5), *NO_REST).flatten().tolist() == [35, 45, 6, 7]


def test_branches_apart_keep_their_residuals_apart() -> None:
    session = session_of(0.9, retention=0.0)
    stack = session.wrap([doubling])
    for step, (positive, negative) in enumerate([((1.0, 2.0), (30.0, 60.0)), ((5.0, 6.0), (5.0, 35.0))]):
        for branch, (x, out) in zip(BOTH, (positive, negative), strict=True):
            session.begin(step, (branch,))
            assert stack(rows(x), *NO_REST).item() == out


def test_residuals_stored_together_serve_one_branch_alone() -> None:
    session = session_of(0.9, retention=0.0)
    stack = session.wrap([doubling])
    session.begin(0, BOTH)
    stack(rows(1, 30), *NO_REST)
    session.begin(1, ("positive",))
    assert stack(rows(5), *NO_REST).item() == 6


def test_a_call_that_nobody_announced_runs_and_changes_nothing() -> None:
    session = session_of(0.9, retention=0.0)
    stack = session.wrap([doubling])
    session.begin(0, ("positive",))
    stack(rows(1), *NO_REST)
    assert stack(rows(100), *NO_REST).item() == 200
    session.begin(1, ("positive",))
    assert stack(rows(5), *NO_REST).item() == 6


def test_a_second_call_in_one_step_runs_and_changes_nothing() -> None:
    session = session_of(0.9, retention=0.0)
    stack = session.wrap([doubling])
    for step, (x, out) in [(0, (1, 2)), (0, (100, 200)), (1, (5, 6)), (1, (100, 200)), (2, (5, 6))]:
        session.begin(step, ("positive",))
        assert stack(rows(x), *NO_REST).item() == out


def test_the_input_of_a_skipped_call_is_not_changed() -> None:
    session = session_of(0.9, retention=0.0)
    stack = session.wrap([doubling])
    x = rows(3)
    for step in range(2):
        session.begin(step, ("positive",))
        stack(x, *NO_REST)
    assert x.item() == 3


@every_variant
def test_threshold_0_is_the_plain_run_bit_by_bit(variant: tiny.Variant) -> None:
    networks = {"single": variant.network(0)}
    run = Run(request(3), networks, variant.conditioning, variant.shape, replace(SETTINGS, threshold=0.0))
    assert torch.equal(run.latents(), dense(request(3), networks, variant.conditioning, variant.shape))


@every_variant
def test_a_cache_that_never_skips_is_the_plain_run_bit_by_bit(variant: tiny.Variant) -> None:
    networks = {"single": variant.network(0)}
    settings = replace(SETTINGS, threshold=1e-9, retention=0.0)
    run = Run(request(3), networks, variant.conditioning, variant.shape, settings)
    assert torch.equal(run.latents(), dense(request(3), networks, variant.conditioning, variant.shape))
    assert run.cache.peak_bytes == 2 * prod(variant.shape[2:]) // 4 * 24 * 4  # 24 float32 values per 2 x 2 latents and branch
    assert run.cache.done.phases[0].actions("positive") == "CCC"


@every_variant
def test_branches_in_one_call_give_what_branches_apart_give(variant: tiny.Variant) -> None:
    networks = {"single": variant.network(0)}
    runs = {
        mode: Run(request(6, mode=mode), networks, variant.conditioning, variant.shape, replace(SETTINGS, retention=0.0))
        for mode in ("batched", "sequential")
    }
    batched, apart = (run.latents() for run in runs.values())
    assert tiny.relative_error(batched, apart) < 1e-5
    assert [run.cache.done.phases[0].actions(branch) for run in runs.values() for branch in BOTH] == ["CSSCSS"] * 4
    assert tiny.relative_error(batched, dense(request(6), networks, variant.conditioning, variant.shape)) > 1e-4


def test_diffusers_magcache_gives_the_same_video_on_the_same_decisions() -> None:
    """Its hook counts calls by itself and takes <= where the paper has <, so the limits here are none that a step meets."""
    asked = request(10, mode="batched")
    network = tiny.t2v()
    run = Run(asked, {"single": network}, tiny.conditioning())
    ours = run.latents()
    network.enable_cache(
        MagCacheConfig(threshold=0.25, max_skip_steps=2, retention_ratio=0.2, num_inference_steps=10, mag_ratios=[1] + [0.92] * 9)
    )
    theirs = dense(asked, {"single": network}, tiny.conditioning())
    assert run.cache.done.phases[0].actions("positive") == "CCSSCSSCSS"
    assert tiny.relative_error(ours, theirs) < 1e-6


@pytest.mark.parametrize("mode", ["batched", "sequential"])
@pytest.mark.parametrize("gate", [1.0, 0.5])
def test_the_run_does_what_the_plan_says_and_the_blocks_run_no_more(mode: str, gate: float) -> None:
    asked, network = request(10, mode=mode, gate=gate), tiny.t2v()
    run = Run(asked, {"single": network}, tiny.conditioning())
    with recorded_blocks(network) as blocks, tiny.recorded_batches(network) as calls:
        run.latents()
    planned = plan_magcache(asked.plan(), run.cache.table, SETTINGS, mode == "batched", gate)
    assert run.cache.done == planned
    computed = [len(d.branches) for part in planned.phases for d in part.decisions if d.action == "compute"]
    assert blocks == [size for size in computed for _ in range(2)]
    assert len(calls) == len(planned.phases[0].decisions)
    assert 0 < len(computed) < len(calls)


def test_behind_the_gate_the_positive_branch_uses_the_residual_of_the_joint_call() -> None:
    # Gate 0.5 of 10 steps: both branches in steps 0 to 4. C C S S C | S S C S S, so step 5 reuses what the joint call of 4 left.
    asked = request(10, mode="batched", gate=0.5)
    run = Run(asked, {"single": tiny.t2v()}, tiny.conditioning())
    apart = Run(request(10, mode="sequential", gate=0.5), {"single": tiny.t2v()}, tiny.conditioning())
    assert tiny.relative_error(run.latents(), apart.latents()) < 1e-5
    (done,) = run.cache.done.phases
    assert (done.actions("positive"), done.actions("negative")) == ("CCSSCSSCSS", "CCSSC-----")


def test_residuals_take_one_hidden_state_per_branch() -> None:
    run = Run(request(6, mode="batched"), {"single": tiny.t2v()}, tiny.conditioning())
    run.latents()
    assert run.cache.peak_bytes == 2 * HIDDEN_BYTES


def test_residuals_on_the_cpu_give_the_same_video() -> None:
    networks = {"single": tiny.t2v()}
    kept = Run(request(6), networks, tiny.conditioning())
    moved = Run(request(6), networks, tiny.conditioning(), settings=replace(SETTINGS, residuals_on_cpu=True))
    assert torch.equal(kept.latents(), moved.latents())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_residuals_on_the_cpu_leave_the_gpu() -> None:
    session = session_of(0.9, retention=0.0)
    session.on_cpu = True
    stack = session.wrap([doubling])
    session.begin(0, ("positive",))
    stack(rows(1).cuda(), *NO_REST)
    assert {residual.device.type for residual in session._residuals.values()} == {"cpu"}
    session.begin(1, ("positive",))
    out = stack(rows(5).cuda(), *NO_REST)
    assert (out.device.type, out.item()) == ("cuda", 6)

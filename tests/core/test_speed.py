"""A speed-up is claimed where the steps tell it apart from noise: synthetic step times, and runs of a tiny model."""

import random
from dataclasses import replace

import pytest
import tiny
from tiny_model import model_of

from fastvideo_core import (
    CachePhaseReport,
    CacheReport,
    GuidanceSettings,
    PhaseReport,
    RunReport,
    SamplingRequest,
    Speed,
    measure,
    speed_up,
    speed_up_of_all,
    with_dbcache,
)
from fastvideo_core.report.step_times import Span, StepKind, StepTimes
from fastvideo_core.step_cache import DBCacheSettings

COMPUTED, SKIPPED = StepKind("single", "CC"), StepKind("single", "SS")


def run(seconds: list[float], plan: str = "", **changes: object) -> RunReport:
    """One with both branches in every step. plan: a cache's letters."""
    phase = PhaseReport(
        expert="single", steps=len(seconds), first_sigma=1.0, guidance_scale=3.0, calls={"2": len(seconds)}, reused_negative=0
    )
    rows = [
        CachePhaseReport(
            expert="single", first_step=0, branch=branch, plan=plan, computed=plan.count("C"), skipped=plan.count("S"), reasons={}
        )
        for branch in ("positive", "negative")
    ]
    cache = CacheReport(
        name="MagCache", settings={}, phases=tuple(rows), aside="", bypassed=0, blocks_ran=1, blocks_asked=2, peak_bytes=0
    )
    facts: dict[str, object] = {
        "model": "tiny", "variant": "tiny", "solver": "euler", "sigmas": (), "guidance_mode": "batched", "guidance_reason": "",
        "phases": (phase,), "latent_shape": tiny.SHAPE, "device": "cpu", "dtype": "float32", "seed": 1,
        "step_seconds": tuple(seconds), "total_seconds": sum(seconds), "peak_memory_bytes": None,
        "caches": (cache,) if plan else (),
    }  # fmt: skip
    return RunReport(**(facts | changes))


def noisy(seconds: list[float], seed: int, pace: float = 1.0) -> list[float]:
    """As a machine takes them: a few percent apart, the first one late, one in sixteen interrupted."""
    rng = random.Random(seed)
    took = [pace * one * rng.uniform(0.97, 1.03) * (rng.uniform(1.5, 4.0) if rng.random() < 1 / 16 else 1.0) for one in seconds]
    return [took[0] + 3.0, *took[1:]]


def test_a_run_takes_the_median_of_each_kind_times_its_number_and_its_first_step_apart() -> None:
    plan = "CCCCSCSCSS"
    times = StepTimes.of([run([9.0, 2.0, 2.1, 1.9, 0.1, 2.0, 0.2, 2.2, 0.1, 0.1], plan)])
    assert times.counts == {COMPUTED: 6, SKIPPED: 4}
    assert times.cost(COMPUTED) == Span(2.0, 2.0, 2.1) and times.cost(SKIPPED) == Span(0.1, 0.1, 0.1)
    assert times.total() == pytest.approx((6 * 2.0 + 4 * 0.1, 6 * 2.0 + 4 * 0.1, 6 * 2.1 + 4 * 0.1))
    assert times.late == 7.0
    assert times.saved() == pytest.approx((4 * (2.0 - 0.1), 4 * (2.0 - 0.1), 4 * (2.1 - 0.1)))


def test_a_few_interrupted_steps_are_no_spread_and_few_steps_are_doubted() -> None:
    seconds = [1.0] * 14 + [5.0, 6.0]
    assert StepTimes.of([run([1.0, *seconds])]).cost(COMPUTED) == Span(1.0, 1.0, 1.0)
    assert StepTimes.of([run([1.0, 1.0, 1.0])]).cost(COMPUTED) == Span(1.0, 0.75, 1.25)


def test_steps_behind_the_gate_are_of_another_kind() -> None:
    phase = replace(run([1.0] * 4).phases[0], calls={"1": 2, "2": 2}, reused_negative=2)
    assert StepTimes.of([run([1.0] * 4, phases=(phase,))]).counts == {COMPUTED: 2, StepKind("single", "C"): 2}


def claims(pairs: list[tuple[RunReport, RunReport]]) -> list[float]:
    return [claim for claim in (speed_up(*pair).claimed for pair in pairs) if claim is not None]


def test_twice_as_fast_is_claimed_through_noise() -> None:
    pairs = [(run(noisy([1.0] * 20, i)), run(noisy([0.5] * 20, i + 100), patches=("a kernel",))) for i in range(40)]
    assert len(claims(pairs)) >= 38
    assert claims(pairs) == pytest.approx([2.0] * len(claims(pairs)), rel=0.05)


def test_what_a_cache_saves_is_claimed_with_what_its_skipped_steps_take() -> None:
    plan, true = "CCCC" + "SC" * 8, 20 / (12 + 8 * 0.1)
    seconds = [1.0 if letter == "C" else 0.1 for letter in plan]
    pairs = [(run(noisy([1.0] * 20, i)), run(noisy(seconds, i + 100), plan)) for i in range(40)]
    assert len(claims(pairs)) >= 36
    assert claims(pairs) == pytest.approx([true] * len(claims(pairs)), rel=0.05)


@pytest.mark.parametrize("pace", [0.4, 0.8, 1.0, 1.3, 3.0])
@pytest.mark.parametrize("seed", range(4))
def test_equal_work_is_never_claimed_to_be_faster_however_busy_the_machine(pace: float, seed: int) -> None:
    first, second = run(noisy([1.0] * 20, seed)), run(noisy([1.0] * 20, seed + 100, pace))
    for speed in (speed_up(first, second), speed_up(second, first)):
        assert speed.claimed is None and "not distinguishable" in speed.text()


def test_a_small_gain_within_the_spread_is_not_claimed() -> None:
    one, other = ([base + 0.1 * (i % 3) for i in range(20)] for base in (1.0, 0.95))
    assert speed_up(run(one), run(other, patches=("a kernel",))).claimed is None


def test_half_the_steps_are_half_the_time_at_any_pace() -> None:
    speed = speed_up(run(noisy([1.0] * 20, 1)), run(noisy([1.0] * 10, 2)))
    assert speed.claimed == pytest.approx(2.0, rel=0.05)


def test_a_pace_that_changed_between_the_runs_widens_the_range_of_different_work() -> None:
    dense, fast = run(noisy([1.0] * 20, 1)), run(noisy([0.6] * 20, 2), patches=("a kernel",))
    assert speed_up_of_all([dense], [fast]).claimed is not None
    slower, alike = (run(noisy([pace] * 5, 3)) for pace in (0.5, 1.0))
    assert speed_up_of_all([dense], [fast], [slower]).claimed is None
    assert speed_up_of_all([dense], [fast], [alike]).claimed is not None


def test_runs_of_several_seeds_are_reckoned_together() -> None:
    dense, fast = [run(noisy([1.0] * 20, seed)) for seed in (1, 2)], [run(noisy([0.5] * 20, seed)) for seed in (3, 4)]
    assert speed_up_of_all(dense, [replace(one, patches=("a kernel",)) for one in fast]).ratio == pytest.approx(2.0, rel=0.02)


def test_what_is_said_of_a_speed() -> None:
    assert Speed(ratio=1.9, low=1.8, high=2.0).text() == "1.90 (1.80 - 2.00)"
    unclear = Speed(ratio=1.3, low=0.9, high=1.5)
    assert unclear.text() == "not distinguishable (0.90 - 1.50)"
    assert unclear.figures() == {"speed_up": None, "speed_up_between": [0.9, 1.5]}


def test_twenty_runs_of_equal_settings_claim_nothing() -> None:
    """Real runs, with whatever else this machine does meanwhile."""
    model = model_of("t2v")
    size = model.video_size(width=32, height=32, frames=5)
    told = model.condition("a cat", "blurry", size)
    request = SamplingRequest(steps=6, shift=5.0, guidance_scale=4.0, seed=2, guidance=GuidanceSettings(mode="batched"))
    idle = with_dbcache(DBCacheSettings(threshold=0.0))
    first = measure(model, told, size, request).report
    runs = [measure(model, told, size, request, idle if i % 2 else None).report for i in range(20)]
    claims = [speed.claimed for other in runs for speed in (speed_up(first, other), speed_up(other, first))]
    assert [claim for claim in claims if claim is not None and not 0.95 <= claim <= 1.05] == []

"""MagCache's trend: a skipped step continues the residual's last change along the noise level."""

import pytest
import tiny
import torch
from magcache_run import SETTINGS, Run, dense, flat_table, recorded_blocks, request
from torch import Tensor

from fastvideo_core import RequestError
from fastvideo_core.guidance import BOTH
from fastvideo_core.schedule import plan, shifted_sigmas
from fastvideo_core.step_cache import MagCache, MagCacheSettings

SCHEDULE = plan(shifted_sigmas(8, 5.0), 5.0)
(PHASE,) = SCHEDULE.phases


def residual(step: int, branch: int) -> Tensor:
    """That of a network whose residual is linear in the noise level."""
    return tiny.normal((1, 4, 6), branch) + SCHEDULE.sigmas[step] * tiny.normal((1, 4, 6), 10 + branch)


def outputs(trend: float, on_cpu: bool = False) -> tuple[str, list[Tensor]]:
    """The plan, and the residual that each step applied, of a network of one block."""
    settings = MagCacheSettings(threshold=0.25, max_skips=2, retention=0.25, trend=trend, residuals_on_cpu=on_cpu)
    cache, applied = MagCache(SCHEDULE, flat_table(SCHEDULE), settings), []
    with cache.session(PHASE) as session:
        assert session is not None
        for step in PHASE.steps:
            x = tiny.normal((2, 4, 6), 100 + step)
            session.begin(step, BOTH)
            out = session.block(0, 1, x, lambda tokens, step=step: tokens + torch.cat([residual(step, 0), residual(step, 1)]))
            applied.append(out - x)
    return cache.done.phases[0].actions("positive"), applied


@pytest.mark.parametrize("on_cpu", [False, True])
def test_trend_1_is_exact_where_the_residual_is_linear_in_the_noise_level(on_cpu: bool) -> None:
    actions, applied = outputs(1.0, on_cpu)
    assert actions == "CCSSCSSC"
    for step, out in enumerate(applied):
        torch.testing.assert_close(out, torch.cat([residual(step, 0), residual(step, 1)]), atol=2e-6, rtol=0)


def test_trend_one_half_goes_half_as_far_and_0_nowhere() -> None:
    _, still = outputs(0.0)
    _, half = outputs(0.5)
    _, whole = outputs(1.0)
    torch.testing.assert_close(half[3], (still[3] + whole[3]) / 2, atol=2e-6, rtol=0)
    torch.testing.assert_close(still[3], still[1], atol=1e-6, rtol=0)


def test_a_skip_after_the_first_computed_step_reuses_it_as_it_is() -> None:
    settings = {"threshold": 0.25, "max_skips": 2, "retention": 0.0}
    asked, network = request(steps=3), tiny.t2v()
    condition = tiny.conditioning()
    videos = [
        Run(asked, {"single": network}, condition, settings=MagCacheSettings(**settings, trend=trend)).latents()
        for trend in (0.0, 1.0)
    ]
    assert torch.equal(*videos)


def test_a_trend_needs_a_second_tensor_per_branch() -> None:
    asked, network, condition = request(), tiny.t2v(), tiny.conditioning()
    held = []
    for trend in (0.0, 0.5):
        run = Run(asked, {"single": network}, condition, settings=MagCacheSettings(threshold=0.25, max_skips=2, trend=trend))
        run.latents()
        held.append(run.cache.peak_bytes)
        assert run.cache.held_bytes == 0
    assert held[1] == 2 * held[0]


def test_a_trend_changes_no_decision_and_no_dense_run() -> None:
    asked, network, condition = request(), tiny.t2v(), tiny.conditioning()
    off = MagCacheSettings(threshold=0.0, max_skips=2, trend=0.5)
    assert torch.equal(
        Run(asked, {"single": network}, condition, settings=off).latents(), dense(asked, {"single": network}, condition)
    )
    counts = []
    for settings in (SETTINGS, MagCacheSettings(threshold=0.25, max_skips=2, trend=0.5)):
        run = Run(asked, {"single": network}, condition, settings=settings)
        with recorded_blocks(network) as batches:
            run.latents()
        counts.append((len(batches), run.cache.done.text()))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("trend", [-0.1, 1.1, float("nan")])
def test_a_trend_is_between_0_and_1(trend: float) -> None:
    with pytest.raises(RequestError, match="trend"):
        MagCacheSettings(threshold=0.1, max_skips=2, trend=trend)

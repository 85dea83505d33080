"""Which transformer calls guidance makes, counted inside real networks, and what it makes of their velocities."""

from itertools import groupby

import pytest
import tiny
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from tiny import normal, recorded_batches, relative_error

from fastvideo_core import (
    CapacityError,
    Guidance,
    GuidanceSettings,
    SamplingRequest,
    guide,
    phase_reports,
    plan,
    shifted_sigmas,
)
from fastvideo_core.wan import WanDenoiser

VARIANTS = tiny.variants()
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))


def request(steps: int = 4, guidance_scale: float = 5.0, **changes: object) -> SamplingRequest:
    settings = {name: changes.pop(name) for name in ("mode", "gate", "rescale") if name in changes}
    return SamplingRequest(
        steps=steps, shift=5.0, guidance_scale=guidance_scale, guidance=GuidanceSettings(**settings), **changes
    )


def batches_of(asked: SamplingRequest) -> tuple[list[int], Guidance]:
    """Batch sizes of all calls of a T2V network, checked against the account that guidance keeps."""
    network = tiny.t2v()
    with recorded_batches(network) as batches:
        _, guidance = tiny.run(asked, {"single": network}, tiny.conditioning())
    assert [len(call.branches) for call in guidance.calls] == batches
    return batches, guidance


def test_batched_makes_one_call_of_two_per_step() -> None:
    batches, guidance = batches_of(request(mode="batched"))
    assert batches == [2, 2, 2, 2]
    assert {call.branches for call in guidance.calls} == {("positive", "negative")}
    assert (guidance.batched, guidance.reason) == (True, "as asked")


def test_sequential_makes_two_calls_of_one_per_step() -> None:
    batches, guidance = batches_of(request(mode="sequential"))
    assert batches == [1] * 8
    assert [call.branches for call in guidance.calls] == [("positive",), ("negative",)] * 4
    assert (guidance.batched, guidance.reason) == (False, "as asked")


def test_auto_batches_where_memory_allows_and_says_so() -> None:
    batches, guidance = batches_of(request(mode="auto"))
    assert batches == [2, 2, 2, 2]
    assert guidance.batched
    assert "GiB are free" in guidance.reason


def test_auto_runs_the_branches_apart_where_memory_is_short_and_says_so() -> None:
    network, schedule = tiny.t2v(), request().plan()
    guidance = Guidance(schedule, GuidanceSettings(mode="auto"))
    denoiser = WanDenoiser(network, tiny.conditioning(), (1, 16, 1001, 8192, 8192))  # terabytes of activations
    with recorded_batches(network) as batches:
        guidance.velocity(denoiser, normal(tiny.SHAPE, 1), 1.0)
    assert batches == [1, 1]
    assert guidance.batched is False
    assert guidance.reason.startswith("both branches need about")


@pytest.mark.parametrize("mode", ["batched", "sequential", "auto"])
def test_scale_1_never_runs_the_negative_branch(mode: str) -> None:
    batches, guidance = batches_of(request(mode=mode, guidance_scale=1.0))
    assert batches == [1, 1, 1, 1]
    assert guidance.batched is None


@pytest.mark.parametrize(
    ("gate", "batches"),
    [
        (1.0, [2, 2, 2, 2, 2]),
        (0.6, [2, 2, 2, 1, 1]),  # int(5 * 0.6) = 3 fresh steps
        (0.5, [2, 2, 1, 1, 1]),  # int(2.5) = 2
        (0.0, [2, 1, 1, 1, 1]),  # the first step has nothing to reuse
    ],
)
def test_the_gate_reuses_the_negative_branch_after_its_fraction_of_the_steps(gate: float, batches: list[int]) -> None:
    counted, guidance = batches_of(request(steps=5, mode="batched", gate=gate))
    assert counted == batches
    (report,) = phase_reports(guidance)
    assert report.reused_negative == batches.count(1)
    assert report.calls == {str(size): len(list(run)) for size, run in groupby(sorted(batches))}


def test_the_gate_saves_one_call_per_step_when_sequential() -> None:
    assert batches_of(request(steps=4, mode="sequential", gate=0.5))[0] == [1, 1, 1, 1, 1, 1]


def test_the_gate_changes_nothing_at_scale_1() -> None:
    counted, guidance = batches_of(request(mode="batched", guidance_scale=1.0, gate=0.5))
    assert counted == [1, 1, 1, 1]
    assert phase_reports(guidance)[0].reused_negative == 0


def two_expert_batches(**changes: object) -> tuple[list[int], list[int], Guidance]:
    """6 steps, shift 5, boundary 0.875: sigmas 1, .962, .909, .833, .714, .5, so 3 steps each."""
    high, low = tiny.t2v(1), tiny.t2v(2)
    asked = request(steps=6, boundary=0.875, mode="batched", **changes)
    with recorded_batches(high) as of_high, recorded_batches(low) as of_low:
        _, guidance = tiny.run(asked, {"high_noise": high, "low_noise": low}, tiny.conditioning())
    return of_high, of_low, guidance


@pytest.mark.parametrize(
    ("high_scale", "low_scale", "high", "low"),
    [
        (4.0, 3.0, [2, 2, 2], [2, 2, 2]),
        (1.0, 3.0, [1, 1, 1], [2, 2, 2]),
        (3.0, 1.0, [2, 2, 2], [1, 1, 1]),
        (1.0, 1.0, [1, 1, 1], [1, 1, 1]),
    ],
)
def test_each_expert_is_guided_by_its_own_scale(high_scale: float, low_scale: float, high: list[int], low: list[int]) -> None:
    of_high, of_low, guidance = two_expert_batches(guidance_scale=high_scale, low_noise_guidance_scale=low_scale)
    assert (of_high, of_low) == (high, low)
    assert [call.expert for call in guidance.calls] == ["high_noise"] * 3 + ["low_noise"] * 3


@pytest.mark.parametrize(("gate", "high", "low"), [(0.5, [2, 2, 2], [2, 1, 1]), (0.2, [2, 1, 1], [2, 1, 1])])
def test_the_gate_starts_afresh_with_the_other_expert(gate: float, high: list[int], low: list[int]) -> None:
    of_high, of_low, guidance = two_expert_batches(gate=gate, low_noise_guidance_scale=3.0)
    assert (of_high, of_low) == (high, low)
    assert [report.reused_negative for report in phase_reports(guidance)] == [high.count(1), low.count(1)]


@every_variant
def test_batched_equals_sequential(variant: tiny.Variant) -> None:
    denoiser = WanDenoiser(variant.network(0), variant.conditioning, variant.shape)
    latents = normal(variant.shape, 1)
    together = denoiser.predict(latents, 0.8, ("positive", "negative"))
    apart = [denoiser.predict(latents, 0.8, (branch,)).velocities[0] for branch in ("positive", "negative")]
    for batched, single in zip(together.velocities, apart, strict=True):
        assert relative_error(batched, single) <= 1e-6
    assert relative_error(*apart) > 1e-2  # the branches differ, so the order of the rows is tested too


@every_variant
def test_a_batched_generation_equals_a_sequential_one(variant: tiny.Variant) -> None:
    networks = {"single": variant.network(0)}
    batched, sequential = (
        tiny.run(request(mode=mode), networks, variant.conditioning, variant.shape)[0][-1].latents
        for mode in ("batched", "sequential")
    )
    # Guidance at scale 5 enlarges the rounding of a call (1e-6) by up to 5 + 4, and four steps add up.
    assert relative_error(batched, sequential) <= 1e-5


def test_a_batch_of_videos_keeps_its_order_in_both_modes() -> None:
    network, condition = tiny.t2v(), tiny.conditioning()
    two, one = (2, *tiny.SHAPE[1:]), [normal(tiny.SHAPE, seed) for seed in (1, 2)]
    expected = [WanDenoiser(network, condition, tiny.SHAPE).predict(x, 0.8, ("negative",)).velocities[0] for x in one]
    velocities = WanDenoiser(network, condition, two).predict(torch.cat(one), 0.8, ("positive", "negative")).velocities
    assert relative_error(velocities[1], torch.cat(expected)) <= 1e-6


def test_the_guided_velocity_is_the_published_formula() -> None:
    positive, negative = normal(tiny.SHAPE, 1), normal(tiny.SHAPE, 2)
    torch.testing.assert_close(guide(positive, negative, 4.0), 4 * positive - 3 * negative)
    assert torch.equal(guide(positive, negative, 0.0), negative)
    torch.testing.assert_close(guide(positive, negative, 1.0), positive)


@pytest.mark.parametrize("rescale", [0.3, 0.7, 1.0])
def test_rescale_equals_diffusers(rescale: float) -> None:
    shape = (2, *tiny.SHAPE[1:])
    positive, negative = 3 * normal(shape, 1), normal(shape, 2)
    expected = rescale_noise_cfg(negative + 5.0 * (positive - negative), positive, guidance_rescale=rescale)
    torch.testing.assert_close(guide(positive, negative, 5.0, rescale), expected, rtol=1e-6, atol=1e-6)


def test_rescale_1_keeps_the_positive_branchs_contrast() -> None:
    positive, negative = normal(tiny.SHAPE, 1), normal(tiny.SHAPE, 2)
    assert guide(positive, negative, 5.0, 1.0).std() == pytest.approx(float(positive.std()), rel=1e-5)


def test_rescale_acts_in_a_generation() -> None:
    networks = {"single": tiny.t2v()}
    plain, rescaled = (
        tiny.run(request(mode="batched", rescale=rescale), networks, tiny.conditioning())[0][-1].latents for rescale in (0.0, 0.7)
    )
    assert relative_error(rescaled, plain) > 1e-2


def test_a_gated_step_adds_the_last_difference_of_the_branches_to_the_positive_one() -> None:
    # v = v_pos + (s - 1) * (v_pos' - v_neg'), primes from the last step with both branches (FastVideo's "LinearAG").
    network, condition, scale = tiny.t2v(), tiny.conditioning(), 5.0
    denoiser = WanDenoiser(network, condition, tiny.SHAPE)
    schedule = plan(shifted_sigmas(4, 5.0), scale)
    guidance = Guidance(schedule, GuidanceSettings(mode="sequential", gate=0.5))
    latents = [normal(tiny.SHAPE, seed) for seed in range(4)]
    velocities = [guidance.velocity(denoiser, x, sigma) for x, sigma in zip(latents, schedule.sigmas, strict=False)]
    last = [denoiser.predict(latents[1], schedule.sigmas[1], (b,)).velocities[0] for b in ("positive", "negative")]
    for i in (2, 3):
        positive = denoiser.predict(latents[i], schedule.sigmas[i], ("positive",)).velocities[0]
        torch.testing.assert_close(velocities[i], positive + (scale - 1) * (last[0] - last[1]), rtol=0, atol=1e-5)


def test_a_solver_that_asks_between_two_levels_is_answered_by_their_step() -> None:
    schedule = plan(shifted_sigmas(6, 5.0), 4.0, 1.0, 0.875)
    guidance = Guidance(schedule, GuidanceSettings(mode="batched"))
    denoiser = WanDenoiser(tiny.t2v(), tiny.conditioning(), tiny.SHAPE)
    for sigma in (1.0, 0.98, 0.5, 0.2):
        guidance.velocity(denoiser, normal(tiny.SHAPE, 1), sigma)
    assert [(call.step, len(call.branches)) for call in guidance.calls] == [(0, 2), (0, 2), (5, 1), (5, 1)]


def test_both_branches_that_do_not_fit_into_memory_are_refused_with_the_way_out() -> None:
    huge = torch.zeros(1).expand(1, 16, 1, 2**18, 2**18)  # one value seen many times; a copy of it is 4 TiB
    denoiser = WanDenoiser(tiny.t2v(), tiny.conditioning(), tuple(huge.shape))
    guidance = Guidance(request().plan(), GuidanceSettings(mode="batched"))
    with pytest.raises(CapacityError, match=r"Both branches .* in one call do not fit .*Use guidance mode sequential or auto"):
        guidance.velocity(denoiser, huge, 1.0)


def test_one_branch_that_does_not_fit_into_memory_is_refused_with_the_way_out() -> None:
    huge = torch.zeros(1).expand(1, 16, 1, 2**18, 2**18)
    denoiser = WanDenoiser(tiny.t2v(), tiny.conditioning(), tuple(huge.shape))
    with pytest.raises(CapacityError, match=r"One transformer call does not fit .*group offloading"):
        denoiser.predict(huge, 1.0, ("positive",))

"""Noise levels, their cut into phases, and the step that a noise level belongs to."""

from itertools import pairwise

import numpy as np
import pytest

from fastvideo_core import TIMESTEPS, RequestError, Schedule, cut, plan, plan_part, shifted_sigmas

SHIFTS = (1.0, 3.0, 5.0, 8.0, 12.0, 16.0)


def official_sigmas(steps: int, shift: float) -> np.ndarray:
    """Wan2.1, wan/utils/fm_solvers.py, get_sampling_sigmas: linspace(1, 0, steps + 1)[:steps], then shifted; 0 at the end."""
    sigma = np.linspace(1, 0, steps + 1)[:steps]
    return np.append(shift * sigma / (1 + (shift - 1) * sigma), 0.0)


def comfyui_simple(steps: int, shift: float) -> np.ndarray:
    """ComfyUI's `simple` scheduler over a flow model's table: sigma(k/1000) shifted, k = 1..1000; step i reads entry
    -(1 + int(i * 1000 / steps)), which is k = 1000 - int(i * 1000 / steps)."""
    k = np.array([1000 - int(i * 1000 / steps) for i in range(steps)]) / 1000
    return np.append(shift * k / (1 + (shift - 1) * k), 0.0)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("steps", [1, 3, 4, 20, 40, 50])
def test_sigmas_are_the_official_ones(steps: int, shift: float) -> None:
    np.testing.assert_allclose(shifted_sigmas(steps, shift), official_sigmas(steps, shift), rtol=0, atol=1e-15)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("steps", [1, 4, 10, 20, 40, 50])
def test_sigmas_are_comfyuis_simple_ones_where_the_steps_divide_1000(steps: int, shift: float) -> None:
    np.testing.assert_allclose(shifted_sigmas(steps, shift), comfyui_simple(steps, shift), rtol=0, atol=1e-15)


def test_sigmas_differ_from_comfyuis_simple_ones_by_at_most_a_table_entry_elsewhere() -> None:
    # 30 steps: int(1000/30) = 33 instead of 33.3, so the table is read up to one of its 1000 entries too high.
    difference = np.abs(np.array(shifted_sigmas(30, 1.0)) - comfyui_simple(30, 1.0))
    assert 0 < difference.max() <= 1 / 1000


def test_golden_sigmas_of_4_steps() -> None:
    # sigma = 1, 3/4, 1/2, 1/4, 0. Shift 5: 5*.75/(1+4*.75) = 3.75/4, 2.5/3, 1.25/2. Shift 12: 9/9.25, 6/6.5, 3/3.75.
    assert shifted_sigmas(4, 5.0) == pytest.approx((1.0, 0.9375, 2.5 / 3, 0.625, 0.0), abs=1e-15)
    assert shifted_sigmas(4, 12.0) == pytest.approx((1.0, 9 / 9.25, 12 / 13, 0.8, 0.0), abs=1e-15)
    assert shifted_sigmas(4, 1.0) == (1.0, 0.75, 0.5, 0.25, 0.0)


@pytest.mark.parametrize("shift", SHIFTS)
def test_sigmas_fall_strictly_from_1_to_0(shift: float) -> None:
    sigmas = shifted_sigmas(1000, shift)
    assert (sigmas[0], sigmas[-1]) == (1.0, 0.0)
    assert all(after < before for before, after in pairwise(sigmas))


@pytest.mark.parametrize(
    ("boundary", "shift", "high_noise_steps"),
    [
        # Step i of 40 has sigma s*u/(1+(s-1)*u), u = 1 - i/40; it is >= b while u >= b/(s-(s-1)*b).
        # b = .875, s = 12: u >= .875/2.375 = .3684, so i <= 25 (u = .375): 26 steps. b = .875, s = 3 is a tie: sigma is
        # 3*.7/2.4 = .875 at i = 12; so is b = .9, s = 3, at i = 10. b = .9, s = 8: u >= .9/1.7 = .5294, i <= 18.
        (0.875, 3, 13), (0.875, 5, 17), (0.875, 8, 22), (0.875, 12, 26),
        (0.900, 3, 11), (0.900, 5, 15), (0.900, 8, 19), (0.900, 12, 23),
    ],
)  # fmt: skip
def test_high_noise_expert_has_the_steps_at_or_above_the_boundary(boundary: float, shift: float, high_noise_steps: int) -> None:
    high, low = plan(shifted_sigmas(40, shift), 4.0, 3.0, boundary).phases
    assert (high.expert, len(high.steps)) == ("high_noise", high_noise_steps)
    assert (low.expert, len(low.steps)) == ("low_noise", 40 - high_noise_steps)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("boundary", "shift", "tie"), [(0.875, 3, 12), (0.9, 3, 10)])
def test_a_level_on_the_boundary_belongs_to_the_high_noise_expert(boundary: float, shift: float, tie: int, dtype: type) -> None:
    sigmas = np.array(shifted_sigmas(40, shift), dtype)
    assert sigmas[tie] == pytest.approx(boundary, rel=1e-7)
    assert plan(sigmas, 4.0, 3.0, boundary).phase_of(tie).expert == "high_noise"


@pytest.mark.parametrize("boundary", [None, 0.8, 0.875, 0.9])
@pytest.mark.parametrize("steps", [2, 7, 20, 40])
def test_phases_cover_every_step_once_and_in_order(steps: int, boundary: float | None) -> None:
    schedule = plan(shifted_sigmas(steps, 3.0), 4.0, 3.0, boundary)
    assert [step for phase in schedule.phases for step in phase.steps] == list(range(schedule.steps))
    for step in range(steps):
        assert step in schedule.phase_of(step).steps


def test_one_expert_has_one_phase() -> None:
    (phase,) = plan(shifted_sigmas(5, 3.0), 6.0).phases
    assert (phase.expert, phase.start, phase.stop, phase.guidance_scale) == ("single", 0, 5, 6.0)


@pytest.mark.parametrize(("high", "low"), [(1.0, 3.0), (3.0, 1.0), (1.0, 1.0), (4.0, 3.0)])
def test_guidance_is_on_or_off_per_phase(high: float, low: float) -> None:
    phases = plan(shifted_sigmas(10, 5.0), high, low, 0.875).phases
    assert [phase.guidance_scale for phase in phases] == [high, low]
    assert [phase.guided for phase in phases] == [high != 1.0, low != 1.0]


def test_guidance_below_1_is_guidance() -> None:
    assert plan(shifted_sigmas(2, 5.0), 0.5).phases[0].guided


def test_the_low_noise_scale_is_the_high_noise_one_when_not_given() -> None:
    assert [phase.guidance_scale for phase in plan(shifted_sigmas(10, 5.0), 3.5, None, 0.9).phases] == [3.5, 3.5]


def test_a_phase_without_steps_is_refused_with_its_expert_and_a_remedy() -> None:
    text = "With 2 steps from sigma 1.000 to 0.500 and boundary 0.4 the low-noise expert has no step. Use more steps, another"
    with pytest.raises(RequestError, match=text):
        plan((1.0, 0.5, 0.0), 4.0, 3.0, 0.4)
    with pytest.raises(RequestError, match="the high-noise expert has no step"):
        plan((0.8, 0.5, 0.0), 4.0, 3.0, 0.875)


@pytest.mark.parametrize("boundary", [0.0, 1.0, -1.0, 875.0, float("nan")])
def test_a_boundary_that_is_no_noise_level_is_refused(boundary: float) -> None:
    with pytest.raises(RequestError, match=r"it must lie between 0 and 1 \(Wan 2.2: T2V 0.875, I2V 0.9\)"):
        plan(shifted_sigmas(4, 5.0), 4.0, 3.0, boundary)


@pytest.mark.parametrize(
    ("sigmas", "text"),
    [
        ((1.0,), "1 sigmas were given: at least 2 are needed"),
        ((), "0 sigmas were given"),
        ((14.6, 3.0, 0.0), "The sigmas run from 14.6 to 0: Wan's noise levels lie in 0..1"),
        ((1.0, float("nan"), 0.0), "lie in 0..1"),
        ((1.0, 0.5, 0.5, 0.0), "must strictly decrease"),
        ((1.0, 0.9999999, 0.5, 0.0), r"must strictly decrease: 1 is followed by 0\.9999999, which is the same level"),
        ((1.0, 0.5, 0.499999, 0.0), r"must strictly decrease: 0\.5 is followed by 0\.499999"),
        ((0.0, 0.5, 1.0), "must strictly decrease"),
    ],
)
def test_given_sigmas_that_are_no_flow_are_refused(sigmas: tuple[float, ...], text: str) -> None:
    with pytest.raises(RequestError, match=text):
        plan(sigmas, 5.0)


def test_given_sigmas_are_kept_as_they_are() -> None:
    given = np.array([0.9, 0.7, 0.1], dtype=np.float32)  # the tail of a schedule, not ending at 0
    assert plan(given, 5.0).sigmas == tuple(float(sigma) for sigma in given)


@pytest.mark.parametrize(("steps", "shift"), [(0, 5.0), (-3, 5.0), (4, 0.0), (4, -1.0), (4, float("inf")), (4, float("nan"))])
def test_steps_and_shift_that_give_no_schedule_are_refused(steps: int, shift: float) -> None:
    with pytest.raises(RequestError, match="at least 1 step" if steps < 1 else "must be a positive number"):
        shifted_sigmas(steps, shift)


def test_timesteps_are_never_truncated_to_integers() -> None:
    schedule = plan(shifted_sigmas(4, 12.0), 5.0)
    assert schedule.timestep(1) == pytest.approx(TIMESTEPS * 9 / 9.25)
    assert schedule.timestep(1) != int(schedule.timestep(1))


def full_schedule(steps: int = 40, shift: float = 12.0) -> Schedule:
    return plan(shifted_sigmas(steps, shift), 4.0, 3.0, 0.875)


@pytest.mark.parametrize("steps", [2, 4, 40, 1000])
def test_step_at_finds_each_level_also_after_float32(steps: int) -> None:
    schedule = plan(shifted_sigmas(steps, 12.0), 5.0)
    assert [schedule.step_at(sigma) for sigma in schedule.sigmas[:-1]] == list(range(steps))
    assert [schedule.step_at(float(np.float32(sigma))) for sigma in schedule.sigmas[:-1]] == list(range(steps))


def test_step_at_gives_a_level_in_between_to_the_step_that_starts_above_it() -> None:
    schedule = full_schedule()
    for step in range(schedule.steps):
        above, below = schedule.sigmas[step : step + 2]
        assert schedule.step_at((above + below) / 2) == step
        assert schedule.step_at(below + (above - below) * 0.01) == step


def test_step_at_of_levels_beyond_the_ends_is_the_first_and_the_last_step() -> None:
    schedule = full_schedule()
    assert schedule.step_at(1.5) == 0
    assert schedule.step_at(0.0) == schedule.steps - 1


@pytest.mark.parametrize(("levels", "expert"), [
    ((1.0, 0.95, 0.9), "high_noise"), ((0.8, 0.5, 0.0), "low_noise"), ((0.8, 0.5, 0.2), "low_noise"),
    ((1.0, 0.9, 0.86, 0.83), "high_noise"), ((0.96, 0.89, 0.73, 0.0), "low_noise"),
])  # fmt: skip
def test_a_chained_sampler_is_one_experts(levels: tuple[float, ...], expert: str) -> None:
    """Also where it goes over the boundary: chains change experts at half of their steps, wherever that is."""
    schedule = plan_part(levels, 4.0, 0.875)
    assert [(phase.expert, list(phase.steps)) for phase in schedule.phases] == [(expert, list(range(len(levels) - 1)))]


@pytest.mark.parametrize("shift", [1.0, 5.0, 8.0])
def test_a_part_knows_the_steps_of_the_whole(shift: float) -> None:
    levels = shifted_sigmas(20, shift)
    for part in (levels[:3], levels[2:11], levels[10:]):
        assert plan(part, 4.0).within(shift).whole_steps == pytest.approx(20)
        assert plan(part, 4.0).whole_steps == len(part) - 1
    assert plan(levels, 4.0).within(shift).part_of is None


def test_a_part_may_be_all_one_experts() -> None:
    levels = shifted_sigmas(8, 5.0)
    assert [phase.expert for phase in plan(levels[5:], 4.0, 3.0, 0.875, partial=True).phases] == ["low_noise"]


def test_a_run_is_cut_as_core_cuts_it() -> None:
    levels = (1.0, 0.8, 0.6, 0.3, 0.0)
    assert cut(levels, 0, 10000, False) == levels
    assert (cut(levels, 0, 2, True), cut(levels, 0, 2, False)) == ((1.0, 0.8, 0.6), (1.0, 0.8, 0.0))
    assert (cut(levels, 2, 4, False), cut(levels, 1, 3, True)) == ((0.6, 0.3, 0.0), (0.8, 0.6, 0.3))
    for start, stop in ((4, 10000), (2, 2), (3, 1)):
        with pytest.raises(RequestError, match="no step is left"):
            cut(levels, start, stop, False)

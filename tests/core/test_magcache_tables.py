"""Ratio tables: what ships, how it is read for a schedule that is not its own, and what it must not be used for."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest

from fastvideo_core import VARIANTS, LoadError, RequestError, Schedule, plan, plan_part, shifted_sigmas
from fastvideo_core.guidance import BOTH
from fastvideo_core.step_cache import MagCacheMode, PhaseRatios, RatioTable, make_rule, published_tables, read_table
from fastvideo_core.step_cache.reading import nearest, phase_ratios, resampled, steps_beyond

TABLES = published_tables()
T2V_14B, T2V_A14B = TABLES["wan2.1_t2v_14B"], TABLES["wan2.2_t2v_A14B"]
I2V_A14B = TABLES["wan2.2_i2v_A14B"]
NO_SHIFT = tuple(1 - (i / 40) ** 2 for i in range(41))
"""Noise levels of some other scheduler."""


def schedule_for(table: RatioTable, steps: int, shift: float, boundary: float | None = None) -> Schedule:
    return plan(shifted_sigmas(steps, shift), 5.0, None, boundary or table.boundary)


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_a_published_table_covers_its_generation_and_names_its_source(table: RatioTable) -> None:
    assert [level for phase in table.phases for level in phase.sigmas] == list(table.sigmas[:-1])
    assert all(set(phase.ratios) == set(BOTH) and row[0] == 1 for phase in table.phases for row in phase.ratios.values())
    assert table.source["repository"] == "Zehong-Ma/MagCache"
    assert len(table.source["commit"]) == 40
    assert table.presets["authors"].threshold > 0


def test_every_published_table_is_of_a_variant_with_its_sampling() -> None:
    # The 1.3B table is measured with another shift than its authors sample with, VACE is no variant; both say so.
    for row in VARIANTS.values():
        for table in (TABLES[name] for name in TABLES if name in (row.name, f"{row.name}_t2v", f"{row.name}_i2v")):
            assert (table.steps, table.boundary) == (row.steps, row.boundary)
            assert table.shift == row.shift or "does not say" in table.source["note"]


def test_tables_of_two_experts_are_cut_at_the_switch() -> None:
    # The sources have 0.65523 in step 26 and 0.91076 in step 15: residuals of two networks, no drift of either.
    assert [len(phase.sigmas) for phase in T2V_A14B.phases] == [26, 14]
    assert [len(phase.sigmas) for phase in I2V_A14B.phases] == [15, 25]
    for table, low in ((T2V_A14B, 0.65523), (I2V_A14B, 0.91076)):
        assert str(low) in table.source["switch"]
        assert low not in table.phase("low_noise").ratios["positive"]
        assert table.phase("low_noise").ratios["positive"][0] == 1


@pytest.mark.parametrize("mode", ["official", "nearest", "resampled"])
@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_every_mode_reads_the_tables_own_schedule_as_it_is(table: RatioTable, mode: MagCacheMode) -> None:
    schedule = plan(table.sigmas, 5.0, None, table.boundary)
    for phase, measured in zip(schedule.phases, table.phases, strict=True):
        read = phase_ratios(table, schedule, phase, mode)
        assert {branch: pytest.approx(values, abs=1e-12) for branch, values in read.items()} == dict(measured.ratios)


@pytest.mark.parametrize("branch", BOTH)
def test_half_the_steps_have_the_products_of_two_ratios(branch: str) -> None:
    # At 25 steps and the same shift every level is one of the 50, so a step's drop is that of two steps.
    schedule = schedule_for(T2V_14B, 25, 5.0)
    measured = T2V_14B.phases[0].ratios[branch]
    expected = [1.0] + [measured[i - 1] * measured[i] for i in range(2, 50, 2)]
    read = phase_ratios(T2V_14B, schedule, schedule.phases[0], "resampled")[branch]
    assert read == pytest.approx(expected, abs=1e-12)
    assert all(double < single for single, double in zip(measured[20::2], read[10:], strict=True))


def test_resampling_loses_nothing_between_two_levels_however_many_steps_lie_between() -> None:
    # The product of the ratios from level 1 to the last one is the same at 10, 25 and 50 steps, as far as the levels agree.
    row = T2V_14B.phases[0]
    level = shifted_sigmas(10, 5.0)[8]
    for steps in (10, 50):
        levels = [sigma for sigma in shifted_sigmas(steps, 5.0) if sigma >= level * (1 - 1e-9)]
        drop = math.prod(resampled(row, "positive", levels))
        assert drop == pytest.approx(math.prod(row.ratios["positive"][:41]), rel=1e-12)


def test_resampling_goes_on_straight_beyond_the_measured_levels() -> None:
    # ln 0.5 per 0.1 of noise level: 0.05 further it is half of that on either side.
    row = PhaseRatios(expert="single", sigmas=(0.9, 0.8, 0.7), ratios={"positive": (1.0, 0.5, 0.5)})
    assert resampled(row, "positive", (0.95, 0.9, 0.7, 0.65)) == pytest.approx((1.0, 0.5**0.5, 0.25, 0.5**0.5))


def test_resampling_reads_any_scheduler_by_noise_level() -> None:
    schedule = plan(NO_SHIFT, 4.0, None, 0.875)
    for phase in schedule.phases:
        read = phase_ratios(T2V_A14B, schedule, phase, "resampled")
        assert all(len(row) == len(phase.steps) and min(row) > 0 for row in read.values())


@pytest.mark.parametrize(("steps", "shift"), [(40, 5.0), (20, 8.0), (4, 12.0)])
def test_resampling_never_sees_the_expert_switch(steps: int, shift: float) -> None:
    # The largest drop that the tables hold within a phase is that of the last steps; a switch read by accident is 0.655.
    schedule = schedule_for(T2V_A14B, steps, shift)
    for phase in schedule.phases:
        levels = [schedule.sigmas[i] for i in phase.steps]
        widest = max((before - after for before, after in pairwise(levels)), default=0.0)
        steepest = max(
            -math.log(ratio) / (before - after)
            for part in T2V_A14B.phases
            for ratio, (before, after) in zip(part.ratios["positive"][1:], pairwise(part.sigmas), strict=True)
        )
        read = phase_ratios(T2V_A14B, schedule, phase, "resampled")["positive"]
        assert min(read) >= math.exp(-steepest * widest) - 1e-9


def test_nearest_takes_halves_to_even_and_no_step_before_the_first() -> None:
    # 3 of 5 values: steps 0, 2, 4. 4 of 7: 0, 2, 4, 6. 3 of 6: 0, 2.5, 5, and 2.5 is nearest to 2 (even).
    assert nearest((1.0, 0.1, 0.2, 0.3, 0.4), 3) == (1.0, 0.2, 0.4)
    assert nearest((1.0, 0.1, 0.2, 0.3, 0.4, 0.5), 3) == (1.0, 0.2, 0.5)
    assert nearest((1.0, 0.1), 4) == (1.0, 1.0, 0.1, 0.1)
    assert nearest((1.0, 0.1), 1) == (1.0,)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_phase_of_one_step_needs_no_ratios(steps: int) -> None:
    schedule = plan((1.0, 0.5, 0.0) if steps == 2 else shifted_sigmas(steps, 3.0), 5.0)
    assert len(phase_ratios(T2V_14B, schedule, schedule.phases[0], "resampled")["positive"]) == steps


def test_a_table_of_one_step_says_nothing_about_more() -> None:
    row = PhaseRatios(expert="single", sigmas=(1.0,), ratios={"positive": (1.0,)})
    assert resampled(row, "positive", (0.9,)) == (1.0,)
    with pytest.raises(RequestError, match="one step of the single expert, which says nothing about 2"):
        resampled(row, "positive", (0.9, 0.5))


@pytest.mark.parametrize("mode", ["official", "nearest"])
def test_another_shift_than_the_tables_is_refused_with_the_right_one(mode: MagCacheMode) -> None:
    with pytest.raises(RequestError) as error:
        schedule = schedule_for(T2V_A14B, 40, 5.0)
        phase_ratios(T2V_A14B, schedule, schedule.phases[0], mode)
    assert "wan2.2_t2v_A14B was measured with shift 12; the schedule's noise levels are those of shift 5." in str(error.value)
    assert "Set shift to 12, or use mode resampled" in str(error.value)


@pytest.mark.parametrize("mode", ["official", "nearest"])
def test_another_scheduler_than_the_tables_is_refused(mode: MagCacheMode) -> None:
    schedule = plan(NO_SHIFT, 4.0, None, 0.875)
    with pytest.raises(RequestError, match="those of no shift, but of another scheduler"):
        phase_ratios(T2V_A14B, schedule, schedule.phases[0], mode)


def test_other_steps_than_the_tables_are_refused_by_official_alone() -> None:
    schedule = schedule_for(T2V_14B, 30, 5.0)
    with pytest.raises(RequestError, match=r"measured with 50 steps .* there are 30. Set steps to 50, or use mode resampled"):
        phase_ratios(T2V_14B, schedule, schedule.phases[0], "official")
    for mode in ("nearest", "resampled"):
        assert len(phase_ratios(T2V_14B, schedule, schedule.phases[0], mode)["positive"]) == 30


def test_levels_read_off_a_table_of_1000_count_as_the_same_shift() -> None:
    # As ComfyUI's `simple` gives them at 30 steps: up to one entry of 1000 too high before the shift.
    table = [5 * (k / 1000) / (1 + 4 * (k / 1000)) for k in range(1001)]
    levels = [*(table[1000 - int(i * 1000 / 30)] for i in range(30)), 0.0]
    schedule = plan(levels, 5.0)
    assert len(phase_ratios(T2V_14B, schedule, schedule.phases[0], "nearest")["positive"]) == 30


@pytest.mark.parametrize("mode", ["official", "nearest", "resampled"])
@pytest.mark.parametrize("boundary", [0.9, 0.8])
def test_another_boundary_than_the_tables_is_refused_with_the_right_one(boundary: float, mode: MagCacheMode) -> None:
    schedule = schedule_for(T2V_A14B, 40, 12.0, boundary)
    with pytest.raises(RequestError, match=r"measured with boundary 0.875; here the .* Set boundary to 0.875"):
        phase_ratios(T2V_A14B, schedule, schedule.phases[0], mode)


def test_a_table_for_other_experts_is_refused() -> None:
    with pytest.raises(RequestError, match=r"is of two experts, the schedule has one. Set boundary to 0.875"):
        phase_ratios(T2V_A14B, plan(T2V_A14B.sigmas, 4.0), plan(T2V_A14B.sigmas, 4.0).phases[0], "resampled")
    schedule = plan(T2V_14B.sigmas, 4.0, None, 0.875)
    with pytest.raises(RequestError, match="is of one expert, the schedule has two"):
        phase_ratios(T2V_14B, schedule, schedule.phases[0], "resampled")


def test_a_schedule_of_one_of_two_experts_is_read() -> None:
    """What a sampler gets that runs the high-noise expert only."""
    whole = schedule_for(T2V_A14B, 40, 12.0)
    high = Schedule(whole.sigmas[:27], whole.phases[:1])
    read = phase_ratios(T2V_A14B, high, high.phases[0], "resampled")
    assert read["positive"] == pytest.approx(T2V_A14B.phases[0].ratios["positive"], abs=1e-12)


def test_a_rule_is_made_fresh_each_time() -> None:
    schedule = plan(T2V_14B.sigmas, 5.0)
    settings = T2V_14B.presets["authors"]
    first, second = (make_rule(schedule, schedule.phases[0], T2V_14B, settings) for _ in range(2))
    assert [first.decide(step, BOTH) for step in range(50)] == [second.decide(step, BOTH) for step in range(50)]


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_a_table_survives_its_file(table: RatioTable, tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    file.write_text(table.json(), "utf-8")
    assert read_table(file) == table


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is no ratio table"),
        ("no json", "is no ratio table"),
        ('{"name": "x"}', "is no ratio table"),
        (json.dumps({**json.loads(T2V_14B.json()), "phases": []}), "is no ratio table"),
        (T2V_14B.json().replace("1.02504", "-1.02504"), "not positive"),
        (T2V_14B.json().replace("1.02504", "NaN"), "a value is nan"),
        (T2V_14B.json().replace("1.02504,", ""), "49 values for 50 steps"),
    ],
)
def test_a_broken_table_is_refused(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    file.write_text(content, "utf-8")
    with pytest.raises(LoadError, match=message):
        read_table(file)


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="There is no ratio table at"):
        read_table(tmp_path / "none.json")


@pytest.mark.parametrize(("levels", "expert", "beyond"), [
    (shifted_sigmas(20, 5.0)[:11], "high_noise", 1), (shifted_sigmas(20, 8.0)[10:], "low_noise", 1),
    (shifted_sigmas(20, 5.0)[:9], "high_noise", 0),
])  # fmt: skip
def test_the_ratios_of_a_chained_expert_go_on_straight_beyond_the_boundary(
    levels: tuple[float, ...], expert: str, beyond: int
) -> None:
    """ComfyUI's templates: 20 steps, shift 5 or 8, another sampler from step 10 on."""
    schedule = plan_part(levels, 3.5, 0.875)
    (phase,) = schedule.phases
    assert phase.expert == expert and steps_beyond(T2V_A14B, schedule, phase) == beyond
    found = phase_ratios(T2V_A14B, schedule, phase, "resampled")
    measured = T2V_A14B.phase(phase.expert)
    assert found == {branch: resampled(measured, branch, levels[:-1]) for branch in measured.ratios}
    assert all(0.5 < ratio < 1.1 for row in found.values() for ratio in row)
    with pytest.raises(RequestError, match=r"runs a part of one\. Use mode resampled"):
        phase_ratios(T2V_A14B, schedule, phase, "nearest")

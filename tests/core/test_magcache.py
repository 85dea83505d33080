"""MagCache's rule and plan: the authors' schedules, step for step, and what each decision depends on."""

import pytest

from fastvideo_core import Phase, RequestError, Schedule, plan, shifted_sigmas
from fastvideo_core.guidance import BOTH, Guidance, GuidanceSettings
from fastvideo_core.step_cache import (
    CachePlan,
    Decision,
    MagCacheMode,
    MagCacheSettings,
    PhaseRule,
    RatioTable,
    plan_magcache,
    published_tables,
)

TABLES = published_tables()

# Schedules of MagCache's authors (Zehong-Ma/MagCache, magcache_generate.py of Wan2.1 and of Wan2.2, run without a network on
# their own tables and settings), and of AI-Hypercomputer/maxdiffusion (both branches decide together). # is a skipped step.
GOLDEN = {
    ("wan2.1_t2v_1.3B", "authors"): "..........####.####.####.####.####.###.##.##.#.#..",
    ("wan2.1_t2v_14B", "authors"): "..........######.######.######.#####.####.##.##.#.",
    ("wan2.1_i2v_480p_14B", "authors"): "........######.#####.####.####.###.##.#.",
    ("wan2.1_i2v_720p_14B", "authors"): "........######.######.#####.####.##.##.#",
    ("wan2.2_t2v_A14B", "authors"): "..........##.##.##.##.##.#......#.#.#...",
    ("wan2.2_t2v_A14B", "maxdiffusion"): ".....##.##.##.##.##.##.##...##.#.#......",
    ("wan2.2_i2v_A14B", "authors"): "..................##.##.##.#.#.#.#......",
    ("wan2.2_i2v_A14B", "maxdiffusion"): "...##.##.##.##......##.##.##.#.#.#......",
    ("wan2.2_ti2v_5B_t2v", "authors"): "..........##.##.##.##.##.##.##.##.##.#.#.#.#.#.#.#",
}
SKIPPED = {
    ("wan2.1_t2v_1.3B", "authors_slow"): 25,
    ("wan2.1_i2v_480p_14B", "authors_slow"): 23,
    ("wan2.1_vace_1.3B", "authors"): 21,
    ("wan2.2_t2v_A14B", "maxdiffusion"): 18,
    ("wan2.2_i2v_A14B", "maxdiffusion"): 17,
    ("wan2.2_ti2v_5B_i2v", "authors"): 24,
}
EVERY_MODE: tuple[MagCacheMode, ...] = ("official", "nearest", "resampled")


def own_schedule(table: RatioTable) -> Schedule:
    return plan(table.sigmas, 5.0, None, table.boundary)


def preset(table: RatioTable, name: str, mode: MagCacheMode) -> MagCacheSettings:
    chosen = table.presets[name]
    return MagCacheSettings(
        threshold=chosen.threshold,
        max_skips=chosen.max_skips,
        retention=chosen.retention,
        low_noise_retention=chosen.low_noise_retention,
        mode=mode,
    )


def drawn(done: CachePlan) -> dict[str, str]:
    """Per branch over all phases, as in `GOLDEN`."""
    whole = {branch: "".join(part.actions(branch) for part in done.phases) for branch in BOTH}
    return {branch: letters.replace("C", ".").replace("S", "#") for branch, letters in whole.items()}


@pytest.mark.parametrize("mode", EVERY_MODE)
@pytest.mark.parametrize("joint", [True, False], ids=["joint", "apart"])
@pytest.mark.parametrize(("name", "settings"), GOLDEN, ids="-".join)
def test_plan_at_the_calibrated_steps_is_the_published_one(name: str, settings: str, joint: bool, mode: MagCacheMode) -> None:
    table = TABLES[name]
    done = plan_magcache(own_schedule(table), table, preset(table, settings, mode), joint)
    assert drawn(done) == dict.fromkeys(BOTH, GOLDEN[name, settings])


@pytest.mark.parametrize("joint", [True, False], ids=["joint", "apart"])
@pytest.mark.parametrize(("name", "settings"), SKIPPED, ids="-".join)
def test_plan_skips_as_many_steps_as_the_published_one(name: str, settings: str, joint: bool) -> None:
    table = TABLES[name]
    done = drawn(plan_magcache(own_schedule(table), table, preset(table, settings, "official"), joint))
    assert [done[branch].count("#") for branch in BOTH] == [SKIPPED[name, settings]] * 2


@pytest.mark.parametrize(("steps", "skipped"), [(50, 32), (30, 19), (20, 13)])
def test_nearest_is_the_authors_interpolation(steps: int, skipped: int) -> None:
    table = TABLES["wan2.1_t2v_14B"]
    done = plan_magcache(plan(shifted_sigmas(steps, 5.0), 5.0), table, preset(table, "authors", "nearest"), False)
    assert drawn(done)["positive"].count("#") == skipped


@pytest.mark.parametrize("name", TABLES)
def test_resampled_plan_of_fewer_steps_never_skips_more_than_the_nearest_one(name: str) -> None:
    table = TABLES[name]
    for steps in (30, 25, 20, 15, 10):
        schedule = plan(shifted_sigmas(steps, table.shift or 0), 5.0, None, table.boundary)
        modes: tuple[MagCacheMode, ...] = ("resampled", "nearest")
        plans = [drawn(plan_magcache(schedule, table, preset(table, "authors", mode), True)) for mode in modes]
        resampled, nearest = (done["positive"].count("#") for done in plans)
        assert resampled <= nearest


SCHEDULE = plan(shifted_sigmas(10, 5.0), 5.0)
(PHASE,) = SCHEDULE.phases


def decide(
    ratios: dict[str, tuple[float, ...]], calls: list[tuple[str, ...]], **settings: float
) -> tuple[list[str], list[Decision]]:
    """The actions of `calls`, one list of calls per step, and the decisions themselves."""
    rule = PhaseRule(PHASE, ratios, MagCacheSettings(**{"threshold": 0.3, "max_skips": 9, "retention": 0.0, **settings}))
    decisions = [rule.decide(step, call) for step in range(len(ratios["positive"])) for call in calls]
    return [decision.action[0] for decision in decisions], decisions


def test_error_is_the_sum_of_the_drifts_since_the_last_computed_step() -> None:
    # Ratio 0.9: the drifts are 1 - 0.9 = 0.1, 1 - 0.81 = 0.19, 1 - 0.729 = 0.271, the sums 0.1, 0.29, 0.561. Below 0.3: two.
    actions, decisions = decide({"positive": (1.0,) + (0.9,) * 6}, [("positive",)])
    assert actions == ["c", "s", "s", "c", "s", "s", "c"]
    assert [d.reason for d in decisions[:4]] == [
        "first step of the phase", "error 0.1 is below 0.3", "error 0.29 is below 0.3", "positive: error 0.561 reaches 0.3"
    ]  # fmt: skip


def test_a_growing_residual_is_as_wrong_as_a_shrinking_one() -> None:
    # 1.1, 1.21: drifts 0.1 and 0.21, the sums 0.1 and 0.31.
    assert decide({"positive": (1.0,) + (1.1,) * 4}, [("positive",)])[0] == ["c", "s", "c", "s", "c"]


def test_error_that_equals_the_threshold_computes() -> None:
    assert decide({"positive": (1.0, 0.5, 1.0)}, [("positive",)], threshold=0.5)[0] == ["c", "c", "s"]


def test_max_skips_bounds_the_steps_skipped_in_a_row() -> None:
    actions, decisions = decide({"positive": (1.0,) * 8}, [("positive",)], max_skips=2)
    assert actions == ["c", "s", "s", "c", "s", "s", "c", "s"]
    assert decisions[3].reason == "positive: 2 steps skipped in a row"


def test_retained_steps_compute_and_leave_no_error_behind() -> None:
    actions, decisions = decide({"positive": (1.0,) + (0.9,) * 6}, [("positive",)], retention=0.3)
    assert actions == ["c", "c", "c", "s", "s", "c", "s"]
    assert [d.reason for d in decisions[1:3]] == ["retention"] * 2


def test_first_step_of_a_phase_computes_whatever_its_ratio() -> None:
    actions, decisions = decide({"positive": (0.001, 1.0)}, [("positive",)], threshold=100.0)
    assert (actions, decisions[0].reason) == (["c", "s"], "first step of the phase")


UNEQUAL = {"positive": (1.0,) + (0.99,) * 6, "negative": (1.0,) + (0.8,) * 6}


def test_branches_apart_decide_by_themselves() -> None:
    actions, _ = decide(UNEQUAL, [("positive",), ("negative",)])
    assert actions[0::2] == ["c"] + ["s"] * 6  # 0.01 + 0.0199 + ... stays below 0.3
    assert actions[1::2] == ["c", "s", "c", "s", "c", "s", "c"]  # 0.2, then 0.2 + 0.36


def test_branches_in_one_call_must_agree_to_skip() -> None:
    actions, decisions = decide(UNEQUAL, [BOTH])
    assert actions == ["c", "s", "c", "s", "c", "s", "c"]
    assert decisions[2].reason == "negative: error 0.56 reaches 0.3"


def test_branches_in_one_call_start_anew_together() -> None:
    # Positive: 0.2, then it would be 0.56; but negative (0.3 at once) made step 1 compute, so step 2 is positive's first.
    ratios = {"positive": (1.0, 0.8, 0.8), "negative": (1.0, 0.7, 1.0)}
    assert decide(ratios, [BOTH])[0] == ["c", "c", "s"]


def test_a_second_call_in_one_step_computes_and_changes_nothing() -> None:
    once, _ = decide({"positive": (1.0,) + (0.9,) * 6}, [("positive",)])
    twice, decisions = decide({"positive": (1.0,) + (0.9,) * 6}, [("positive",), ("positive",)])
    assert twice[0::2] == once
    assert twice[1::2] == ["b"] * 7
    assert decisions[1].reason == "a second call in one step"


def test_a_branch_that_missed_a_step_computes() -> None:
    rule = PhaseRule(PHASE, UNEQUAL, MagCacheSettings(threshold=9.0, max_skips=9, retention=0.0))
    assert rule.decide(0, BOTH).action == "compute"
    assert rule.decide(1, ("positive",)).action == "skip"
    assert rule.decide(2, BOTH) == Decision(2, BOTH, "compute", "a branch did not run in the step before")
    assert rule.decide(3, BOTH).action == "skip"


def test_a_branch_that_the_table_does_not_know_is_refused() -> None:
    rule = PhaseRule(PHASE, {"positive": (1.0,) * 10}, MagCacheSettings(threshold=0.1, max_skips=2))
    with pytest.raises(RequestError, match="nothing about the negative branch of the single expert"):
        rule.decide(0, BOTH)


SETTINGS = MagCacheSettings(threshold=0.24, max_skips=6)
T2V_14B = TABLES["wan2.1_t2v_14B"]


@pytest.mark.parametrize("joint", [True, False], ids=["joint", "apart"])
@pytest.mark.parametrize("gate", [1.0, 0.55, 0.0])
def test_plan_follows_the_calls_that_guidance_makes(gate: float, joint: bool) -> None:
    schedule = own_schedule(TABLES["wan2.2_t2v_A14B"])
    done = plan_magcache(schedule, TABLES["wan2.2_t2v_A14B"], SETTINGS, joint, gate)
    guidance = Guidance(schedule, GuidanceSettings(gate=gate))
    both = [step < guidance.gate_step or step in (0, 26) for step in range(40)]
    planned = drawn(done)
    assert [letter != "-" for letter in planned["negative"]] == both
    assert "-" not in planned["positive"]


def test_a_phase_without_guidance_plans_the_positive_branch_only() -> None:
    table = TABLES["wan2.2_t2v_A14B"]
    done = plan_magcache(plan(table.sigmas, 4.0, 1.0, table.boundary), table, SETTINGS, True)
    assert [part.branches for part in done.phases] == [["positive", "negative"], ["positive"]]


@pytest.mark.parametrize("low_noise", [None, 0.5])
def test_retention_is_of_the_phase_in_whole_steps(low_noise: float | None) -> None:
    settings = MagCacheSettings(threshold=9.0, max_skips=9, retention=0.1, low_noise_retention=low_noise)
    # 26 high-noise and 14 low-noise steps, a tenth of them: 2 (2.6) and 1 (1.4); a half of 14: 7.
    done = plan_magcache(own_schedule(TABLES["wan2.2_t2v_A14B"]), TABLES["wan2.2_t2v_A14B"], settings, False)
    for branch in BOTH:
        high, low = (part.actions(branch) for part in done.phases)
        assert high.startswith("CCS")
        assert low.startswith("CS" if low_noise is None else "CCCCCCCS")


@pytest.mark.parametrize("retention", [0.0, 0.05])
def test_a_retention_of_less_than_one_step_still_computes_the_first(retention: float) -> None:
    settings = MagCacheSettings(threshold=9.0, max_skips=9, retention=retention)
    done = plan_magcache(plan(shifted_sigmas(4, 5.0), 5.0), T2V_14B, settings, True)
    assert done.phases[0].actions("positive") == "CSSS"


def test_threshold_0_stands_aside() -> None:
    done = plan_magcache(own_schedule(T2V_14B), T2V_14B, MagCacheSettings(threshold=0.0, max_skips=6), True)
    assert drawn(done)["positive"] == "." * 50
    assert done.text() == "MagCache stands aside: its threshold is 0, which is off."


@pytest.mark.parametrize(("steps", "scale", "aside"), [(8, 1.0, True), (9, 1.0, False), (4, 1.0, True), (8, 5.0, False)])
def test_few_steps_without_guidance_stand_aside(steps: int, scale: float, aside: bool) -> None:
    done = plan_magcache(plan(shifted_sigmas(steps, 5.0), scale), T2V_14B, SETTINGS, True)
    assert bool(done.aside) == aside
    if aside:
        assert drawn(done)["positive"] == "." * steps
        assert {decision.reason for part in done.phases for decision in part.decisions} == {done.aside}
        assert "attention backend" in done.text()


def test_every_decision_has_its_reason() -> None:
    done = plan_magcache(own_schedule(T2V_14B), T2V_14B, T2V_14B.presets["authors"], True)
    reasons = [decision.reason for decision in done.phases[0].decisions]
    assert reasons[:10] == ["first step of the phase"] + ["retention"] * 9
    assert reasons[16] == "positive: 6 steps skipped in a row"
    assert "after 6 steps skipped in a row" in done.phases[0].report()[0].reasons  # it stands behind a number there
    assert all(reasons)


def test_plan_reads_as_letters_and_counts() -> None:
    settings = MagCacheSettings(threshold=9.0, max_skips=1, retention=0.25)
    done = plan_magcache(plan(shifted_sigmas(8, 5.0), 5.0), T2V_14B, settings, True)
    assert done.text() == "single positive CCSCSCSC (3 of 8 skipped)\nsingle negative CCSCSCSC (3 of 8 skipped)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": -0.1}, "threshold is -0.1: it is 0"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"max_skips": 0}, "max_skips is 0: it is 1 or more"),
        ({"retention": 1.5}, "retention is 1.5"),
        ({"low_noise_retention": -1.0}, "low_noise_retention is -1.0"),
        ({"mode": "fast"}, "mode is 'fast': use one of resampled, nearest, official"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        MagCacheSettings(**{"threshold": 0.1, "max_skips": 2, **change})


def test_retained_steps_are_exact_where_the_product_is_whole() -> None:
    # In floating point 0.29 * 100 = 28.999999999999996.
    phase = Phase(expert="single", start=0, stop=100, guidance_scale=5.0)
    assert MagCacheSettings(threshold=0.1, max_skips=2, retention=0.29).retained_steps(phase) == 29

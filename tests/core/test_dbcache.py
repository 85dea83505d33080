"""DBCache's rule and session: what is decided, for which branch, and what a skipped step computes."""

from dataclasses import replace

import pytest
import tiny
import torch
from dbcache_run import SETTINGS, Run, all_latents, deep
from magcache_run import recorded_blocks, request
from torch import Tensor

from fastvideo_core import Phase, RequestError, Schedule
from fastvideo_core.guidance import BOTH
from fastvideo_core.step_cache import DBCACHE_PRESETS, DBCache, DBCacheSession, DBCacheSettings

VARIANTS = tiny.variants()
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))
PHASE = Phase(expert="single", start=0, stop=8, guidance_scale=5.0)
LOW = Phase(expert="low_noise", start=8, stop=18, guidance_scale=5.0)
SCHEDULE = Schedule(tuple(1 - i / 8 for i in range(9)), (PHASE,))
ONES = torch.ones(1, 1, 1)


def session_of(**settings: float) -> DBCacheSession:
    return DBCacheSession(SCHEDULE, PHASE, DBCacheSettings(**{"threshold": 0.1, "first_blocks": 1, "warmup_steps": 0} | settings))


def calls(
    session: DBCacheSession, added: list[float], middle: list[float], step: int, branches: tuple = ("positive",)
) -> list[float]:
    """One call of three blocks from tokens of 1: the first adds `added` to each row, the second `middle`, the last 100."""
    session.begin(step, branches)
    x = torch.ones(len(added), 1, 1)
    for index, values in enumerate([added, middle, [100.0] * len(added)]):
        plus = torch.tensor(values).view(-1, 1, 1)

        def run(tokens: Tensor, plus: Tensor = plus) -> Tensor:
            return tokens + plus

        x = session.block(index, 3, x, run)
    return x.flatten().tolist()


def actions(session: DBCacheSession) -> str:
    return "".join({"compute": "C", "skip": "S", "bypass": "B"}[decision.action] for decision in session.decisions)


def reasons(session: DBCacheSession) -> list[str]:
    return [decision.reason for decision in session.decisions]


def test_a_small_difference_of_the_first_block_skips_the_others_and_a_large_one_does_not() -> None:
    session = session_of(taylor_order=0)
    assert calls(session, [10.0], [1000.0], 0) == [1 + 10 + 1000 + 100]
    assert calls(session, [10.5], [7.0], 1) == [1 + 10.5 + 1100]  # what both blocks added in step 0
    assert calls(session, [11.5], [7.0], 2) == [1 + 11.5 + 7 + 100]
    assert reasons(session) == [
        "first step of the phase", "difference 0.05 is below 0.1", "difference 0.15 reaches 0.1",
    ]  # fmt: skip
    assert (session.ran, session.asked) == (7, 9)


def test_the_difference_is_to_the_last_computed_step_not_to_a_skipped_one() -> None:
    session = session_of()
    for step, added in enumerate([10.0, 10.6, 11.2]):
        calls(session, [added], [1.0], step)
    assert actions(session) == "CSC"


def test_last_blocks_run_in_skipped_steps_too() -> None:
    session = session_of(last_blocks=1, taylor_order=0)
    calls(session, [10.0], [1000.0], 0)
    assert calls(session, [10.0], [7.0], 1) == [1 + 10 + 1000 + 100]
    assert (session.ran, session.asked) == (5, 6)


def test_the_middle_blocks_go_on_along_their_derivative() -> None:
    session = session_of(warmup_steps=4, taylor_order=1)
    for step in range(8):
        out = calls(session, [10.0], [5.0 * step**2], step)
        if step >= 4:  # 20 and 45 in steps 2 and 3, with what the last block adds
            assert out == [1 + 10 + 45 + 25 * (step - 3) + 100]
    assert actions(session) == "CCCCSSSS"


def test_the_second_derivative_is_that_of_the_first_over_the_steps_in_between() -> None:
    session = session_of(warmup_steps=5, taylor_order=2)
    for step in range(6):
        out = calls(session, [10.0], [float(step**2)], step)
    # Terms at 4: 116, 7 and, as the first slope was taken at step 3, 7 - 5 = 2: 16 + 7 + 2 / 2 = 24, cache-dit's estimate of 25
    assert out == [1 + 10 + 24 + 100]


def test_branches_of_one_call_decide_together_and_keep_what_is_theirs() -> None:
    session = session_of(taylor_order=0)
    calls(session, [10.0, 30.0], [1.0, 2.0], 0, BOTH)
    # Alone, 1.5 of 10 would compute and 0.5 of 30 skip; together it is 2 of 40.
    assert calls(session, [11.5, 30.5], [0.0, 0.0], 1, BOTH) == [1 + 11.5 + 101, 1 + 30.5 + 102]
    assert reasons(session)[1] == "difference 0.05 is below 0.1"


def test_branches_apart_decide_by_themselves() -> None:
    session = session_of(taylor_order=0)
    for step, (positive, negative) in enumerate([(10.0, 30.0), (11.5, 30.5)]):
        calls(session, [positive], [1.0], step, ("positive",))
        calls(session, [negative], [2.0], step, ("negative",))
    assert actions(session) == "CCCS"


def test_what_both_computed_together_serves_one_alone() -> None:
    session = session_of(taylor_order=0)
    calls(session, [10.0, 30.0], [1.0, 2.0], 0, BOTH)
    assert calls(session, [10.0], [0.0], 1) == [1 + 10 + 101]


def test_a_branch_that_begins_later_computes_first() -> None:
    session = session_of()
    calls(session, [10.0], [1.0], 0)
    calls(session, [10.0], [1.0], 1, ("negative",))
    assert reasons(session)[1] == "nothing of this size was computed before"


def test_another_size_computes_and_is_compared_with_from_then_on() -> None:
    session = session_of(taylor_order=1)
    for step, rows in enumerate([1, 2, 2]):
        calls(session, [10.0] * rows, [1.0] * rows, step)
    assert actions(session) == "CCS"


def test_a_second_call_in_one_step_runs_and_changes_nothing() -> None:
    session = session_of(taylor_order=0)
    calls(session, [10.0], [1000.0], 0)
    assert calls(session, [99.0], [5.0], 0) == [1 + 99 + 5 + 100]
    assert calls(session, [10.0], [0.0], 1) == [1 + 10 + 1100]
    assert actions(session) == "CBS"


def test_a_call_that_nobody_announced_runs_and_is_not_counted() -> None:
    session = session_of()
    assert session.block(0, 3, ONES, lambda x: x + 1).item() == 2
    assert (session.decisions, session.asked) == ([], 0)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, "CSSSSSSS"),
        ({"warmup_steps": 3}, "CCCSSSSS"),
        ({"max_skips": 2}, "CSSCSSCS"),
        ({"max_skipped_steps": 3}, "CSSSCCCC"),
        ({"max_skips": 1, "max_skipped_steps": 2}, "CSCSCCCC"),
    ],
)
def test_warmup_and_limits(limits: dict[str, int], expected: str) -> None:
    session = session_of(**limits)
    for step in range(8):
        calls(session, [10.0], [1.0], step)
    assert actions(session) == expected


def test_the_low_noise_expert_has_warmup_and_limit_of_its_own() -> None:
    settings = DBCacheSettings(warmup_steps=5, low_noise_warmup_steps=2, max_skipped_steps=3, low_noise_max_skipped_steps=7)
    assert [(settings.warmup(phase), settings.skippable(phase)) for phase in (PHASE, LOW)] == [(5, 3), (2, 7)]
    same = DBCacheSettings(warmup_steps=5, max_skipped_steps=3)
    assert (same.warmup(LOW), same.skippable(LOW)) == (5, 3)


@pytest.mark.parametrize(("blocks", "first"), [(2, 1), (4, 1), (8, 2), (20, 5), (30, 8), (40, 8), (60, 8)])
def test_auto_takes_8_first_blocks_of_a_full_size_network_and_fewer_of_a_small_one(blocks: int, first: int) -> None:
    assert DBCacheSettings().outer_blocks(blocks) == (first, 0)


@pytest.mark.parametrize(("steps", "threshold"), [(50, 0.1), (40, 0.125), (20, 0.25), (10, 0.3)])
def test_auto_allows_a_larger_difference_where_steps_are_larger(steps: int, threshold: float) -> None:
    assert DBCache(request(steps).plan(), DBCacheSettings()).threshold == threshold


def test_presets_are_what_their_names_are_known_for() -> None:
    assert {name: preset.threshold for name, preset in DBCACHE_PRESETS.items()} == {
        "auto": None,
        "quality": 0.08,
        "performance": 0.15,
    }
    assert {preset.outer_blocks(30) for preset in DBCACHE_PRESETS.values()} == {(8, 0)}
    assert {preset.taylor_order for preset in DBCACHE_PRESETS.values()} == {1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": -0.1}, {"threshold": 1.0}, {"threshold": float("nan")}, {"first_blocks": 0}, {"last_blocks": -1},
        {"warmup_steps": -1}, {"low_noise_warmup_steps": -1}, {"max_skips": 0}, {"max_skipped_steps": 0},
        {"low_noise_max_skipped_steps": 0}, {"taylor_order": -1},
    ],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(RequestError, match=next(iter(wrong))):
        DBCacheSettings(**wrong)


def test_more_outer_blocks_than_the_network_has_are_refused_with_what_fits() -> None:
    run = Run(request(3), {"single": deep()}, replace(SETTINGS, first_blocks=3, last_blocks=1))
    with pytest.raises(
        RequestError, match=r"first_blocks 3 and last_blocks 1 leave none of the network's 4 blocks .* sum to 3 at most"
    ):
        run.latents()


@every_variant
def test_threshold_0_is_the_plain_run_bit_by_bit(variant: tiny.Variant) -> None:
    networks = {"single": variant.network(0)}
    run = Run(request(3), networks, replace(SETTINGS, threshold=0.0), variant.conditioning, variant.shape)
    plain = tiny.run(request(3), networks, variant.conditioning, variant.shape)[0][-1].latents
    assert torch.equal(run.latents()[-1], plain)
    assert run.cache.report().aside == "its threshold is 0, which is off."


@every_variant
def test_a_cache_that_never_skips_is_the_plain_run_bit_by_bit(variant: tiny.Variant) -> None:
    networks = {"single": variant.network(0)}
    run = Run(request(3), networks, replace(SETTINGS, threshold=1e-9), variant.conditioning, variant.shape)
    plain = tiny.run(request(3), networks, variant.conditioning, variant.shape)[0][-1].latents
    assert torch.equal(run.latents()[-1], plain)
    assert run.actions() == ["CCC"]


@every_variant
def test_branches_in_one_call_give_what_branches_apart_give(variant: tiny.Variant) -> None:
    networks = {"single": variant.network(0)}
    runs = [
        Run(request(6, mode=mode), networks, SETTINGS, variant.conditioning, variant.shape) for mode in ("batched", "sequential")
    ]
    batched, apart = (run.latents()[-1] for run in runs)
    assert [run.actions(branch) for run in runs for branch in BOTH] == [["CCSSSS"]] * 4
    assert tiny.relative_error(batched, apart) < 1e-5


def test_a_distilled_model_is_left_alone() -> None:
    network = deep()
    run = Run(request(4, 1.0), {"single": network}, SETTINGS)
    with recorded_blocks(network) as blocks:
        latents = run.latents()
    assert len(blocks) == 2 * 4
    assert torch.equal(latents[-1], all_latents(request(4, 1.0), {"single": network})[-1])
    assert run.cache.done.text().startswith("DBCache stands aside: a run of 4 steps without guidance")


def test_the_report_tells_blocks_reasons_and_what_auto_was() -> None:
    run = Run(request(10, mode="batched"), {"single": deep()}, DBCacheSettings())
    run.latents()
    report = run.cache.report()
    assert report.settings["threshold"] == 0.3
    assert [row.plan for row in report.phases] == ["CC" + "S" * 8] * 2
    assert report.phases[0].reasons == {"first step of the phase": 1, "warmup": 1}
    assert (report.blocks_ran, report.blocks_asked) == (10 * 4 - 8 * 3, 10 * 4)


def test_reasons_are_counted_without_their_figures() -> None:
    run = Run(request(12, mode="batched"), {"single": deep()}, replace(SETTINGS, threshold=0.012))
    run.latents()
    assert run.cache.report().phases[0].reasons == {
        "first step of the phase": 1, "warmup": 1, "difference reaches the threshold": 4,
    }  # fmt: skip


def test_residuals_on_the_cpu_give_the_same_video() -> None:
    runs = [
        Run(request(8), {"single": deep()}, replace(SETTINGS, threshold=0.015, residuals_on_cpu=there)) for there in (False, True)
    ]
    kept, moved = (run.latents()[-1] for run in runs)
    assert torch.equal(kept, moved)

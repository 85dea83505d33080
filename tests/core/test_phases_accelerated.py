"""Three phases of two experts on a whole model: step caches, attention, sparsity and compiled blocks begin anew in each, and the
report finds each phase."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from tiny_model import model_of, small

from fastvideo_core import (
    AttentionSettings,
    CompileSettings,
    DBCacheSettings,
    Generation,
    Guidance,
    GuidanceSettings,
    LoadError,
    MagCacheSettings,
    NewCache,
    PhaseSettings,
    RatioTable,
    RequestError,
    RunReport,
    SamplingRequest,
    WanModel,
    generate,
    plan,
    plan_phases,
    seeded_noise,
    with_dbcache,
    with_magcache,
)
from fastvideo_core.attention.sparse import NABLASettings, SparseSchedule
from fastvideo_core.report.step_times import StepKind, StepTimes
from fastvideo_core.step_cache import CachedExperts, Calibration, PhaseRatios, calibrate, fingerprints, plan_magcache
from fastvideo_core.step_cache.reading import phase_ratios, steps_beyond
from fastvideo_core.wan.variants import VARIANTS

STEPS = 18
BOUNDARY = 0.9
MAGCACHE = MagCacheSettings(threshold=0.25, max_skips=2, retention=0.0)
DBCACHE = DBCacheSettings(threshold=0.9, first_blocks=1, warmup_steps=1)
PAIR = {"high_noise": tiny.t2v(1), "low_noise": tiny.t2v(2)}


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def part(expert: str, until: float = 0.0, scale: float = 3.0) -> PhaseSettings:
    return PhaseSettings(expert=expert, guidance_scale=scale, until=until)


def request(*phases: PhaseSettings, mode: str = "batched") -> SamplingRequest:
    settings = GuidanceSettings(mode=mode)
    return SamplingRequest(steps=STEPS, shift=5.0, phases=phases, solver="euler", seed=4, guidance=settings)


THREE = request(part("high_noise", 0.96, 3.5), part("high_noise", BOUNDARY, 1.0), part("low_noise", scale=2.0))
"""Steps 0 to 3, 4 to 6 and 7 to 17."""


def model(**networks: Any) -> WanModel:
    return replace(model_of("t2v two experts"), transformers=networks or dict(PAIR))


def ran(of: WanModel, asked: SamplingRequest = THREE, **options: Any) -> Generation:
    size = small(of)
    generation = of.generate(asked, of.condition("a cat sits", "blurry", size), size, **options)
    list(generation)
    return generation


def flat(weights: tuple[str, ...] = (), ratio: float = 0.92) -> RatioTable:
    """The pair's table: each residual `ratio` of the last, so that two of three steps are skipped."""
    schedule = plan(THREE.levels, 3.0, None, BOUNDARY)
    rows = [
        PhaseRatios(
            expert=phase.expert,
            sigmas=schedule.sigmas[phase.start : phase.stop],
            ratios={branch: (1.0, *[ratio] * (len(phase.steps) - 1)) for branch in ("positive", "negative")},
        )
        for phase in schedule.phases
    ]
    prints = tuple(fingerprints({name: PAIR[name]})[0] for name in weights)
    return RatioTable(
        name="flat", sigmas=schedule.sigmas, shift=5.0, boundary=BOUNDARY, phases=tuple(rows), source={}, weights=prints
    )


def letters(report: RunReport) -> dict[tuple[int, str], str]:
    return {(row.first_step, row.branch): row.plan for row in report.caches[0].phases}


def test_the_plan_has_the_steps_that_the_comments_say() -> None:
    assert [(phase.start, phase.stop) for phase in THREE.plan().phases] == [(0, 4), (4, 7), (7, 18)]


@pytest.mark.parametrize("cache", [with_magcache(MAGCACHE, table=flat()), with_dbcache(DBCACHE)], ids=["MagCache", "DBCache"])
def test_a_step_cache_begins_anew_in_each_phase(cache: NewCache) -> None:
    generation = ran(model(), cache=cache)
    found = letters(generation.report())
    assert set(found) == {(0, "positive"), (0, "negative"), (4, "positive"), (7, "positive"), (7, "negative")}
    assert all(row[0] == "C" and "S" in row for row in found.values())
    if generation.cache.report().name == "MagCache":
        assert set(found.values()) == {"CSSC", "CSS", "CSSCSSCSSCS"}
    assert generation.cache.held_bytes == 0


def test_what_magcache_planned_before_the_run_is_what_ran() -> None:
    size = small(model())
    generation = model().generate(THREE, model().condition("a cat", "", size), size, with_magcache(MAGCACHE, table=flat()))
    planned = generation.plan()
    list(generation)
    assert planned is not None
    assert letters(generation.report()) == {
        (part.phase.start, branch): part.actions(branch) for part in planned.phases for branch in part.branches
    }


def test_a_cache_that_skips_nothing_changes_nothing() -> None:
    plain = ran(model()).latents
    for cache in (with_magcache(replace(MAGCACHE, threshold=1e-9), table=flat()), with_dbcache(replace(DBCACHE, threshold=1e-9))):
        assert torch.equal(ran(model(), cache=cache).latents, plain)


def test_attention_sparsity_and_compiled_blocks_go_through_all_phases() -> None:
    nabla = NABLASettings(mass=0.5, tile=(1, 2, 2))
    sparse = SparseSchedule(settings=nabla, low_noise=nabla, kernel="gather")
    options = {"attention": AttentionSettings(), "sparse": sparse, "compile": CompileSettings("eager")}
    generation = ran(model(), **options, cache=with_dbcache(DBCACHE))
    report = generation.report()
    assert [row.expert for row in report.sparse] == ["high_noise", "high_noise", "low_noise"]
    assert all(row.sparse_calls > 0 for row in report.sparse)
    assert [(row.expert, row.part) for row in report.attention] == [
        (expert, which) for expert in PAIR for which in ("self-attention", "cross-attention")
    ]
    assert [row.network_calls for row in report.attention[::2]] == [7, 11], "of both phases of the first"
    assert torch.isfinite(generation.latents).all()
    eager = ran(model(), attention=AttentionSettings(), sparse=sparse, cache=with_dbcache(DBCACHE)).latents
    assert tiny.relative_error(generation.latents, eager) < 1e-4


def test_the_report_tells_the_phases_apart_and_counts_what_was_loaded() -> None:
    report = ran(model(), cache=with_magcache(MAGCACHE, table=flat())).report()
    assert [(row.expert, row.steps, row.guidance_scale, row.calls) for row in report.phases] == [
        ("high_noise", 4, 3.5, {"2": 4}), ("high_noise", 3, 1.0, {"1": 3}), ("low_noise", 11, 2.0, {"2": 11}),
    ]  # fmt: skip
    assert (report.networks, report.moves) == (2, 2)
    assert "networks: 2, their weights brought to the device 2 times" in report.text()
    counts = StepTimes.of([report]).counts
    assert counts == {
        StepKind("high_noise", "CC"): 2, StepKind("high_noise", "SS"): 2, StepKind("high_noise", "C"): 1,
        StepKind("high_noise", "S"): 2, StepKind("low_noise", "CC"): 4, StepKind("low_noise", "SS"): 7,
    }  # fmt: skip
    single = ran(model(single=tiny.t2v()), request(part("single"))).report()
    assert (single.networks, single.moves) == (1, 1) and "networks:" not in single.text()


def test_a_calibration_measures_each_phase_by_itself() -> None:
    asked = request(part("single", 0.9), part("single"))
    schedule, condition = asked.plan(), tiny.conditioning()
    calibration, noise = Calibration(schedule), seeded_noise(tiny.SHAPE, 1)
    experts = tiny.experts({"single": tiny.t2v()}, condition)
    through = CachedExperts(experts, schedule, calibration)
    list(generate(asked, through, condition, noise, Guidance(schedule, asked.guidance)))
    first, second = calibration.phases()
    assert (first.sigmas, second.sigmas) == (schedule.sigmas[:7], schedule.sigmas[7:18])
    assert first.ratios["positive"][0] == second.ratios["positive"][0] == 1
    with pytest.raises(RequestError, match=r"has phases, and a ratio table is of one expert .* Calibrate with a guidance_scale"):
        calibrate(asked, experts, condition, noise)


def test_the_ratios_of_an_expert_of_any_name_are_found_by_its_weights() -> None:
    table = flat(("high_noise", "low_noise"))
    high, low, other = (fingerprints({"single": network})[0] for network in (*PAIR.values(), tiny.t2v(3)))
    assert table.row("fast", 0.1, high) is table.row("low_noise", 0.1, high) is table.phases[0]
    assert table.row("base", 1.0, low) is table.phases[1]
    assert table.row("base", BOUNDARY) is table.phases[0] and table.row("base", 0.89) is table.phases[1]
    assert table.row("low_noise", 1.0, other) is table.phases[1], "a table that was given serves the experts of its names"
    with pytest.raises(RequestError, match=r"flat was measured on other weights than those of the expert base \(.{16}\)"):
        table.row("base", 1.0, other)
    unsigned = replace(table, weights=())
    assert unsigned.row("base", 1.0, other) is table.phases[0] and unsigned.row("base", 0.2, other) is table.phases[1]
    with pytest.raises(RequestError, match="is of two experts, the schedule has one"):
        unsigned.row("single", 1.0)
    one = replace(unsigned, boundary=None, phases=(replace(table.phases[0], expert="single"),))
    assert one.row("base", 0.3) is one.phases[0]
    with pytest.raises(RequestError, match="is of one expert, the schedule has two"):
        one.row("high_noise", 1.0)


def test_a_table_serves_phases_within_each_side_of_its_boundary_and_none_across() -> None:
    fine = plan_phases(THREE.levels, [part("a", 0.96), part("a", BOUNDARY), part("b", 0.6), part("b")])
    assert [steps_beyond(flat(), fine, phase) for phase in fine.phases] == [0] * 4
    assert all(phase_ratios(flat(), fine, phase, "resampled")["positive"][0] == 1 for phase in fine.phases)
    across = plan_phases(THREE.levels, [part("a", 0.7), part("b")])
    assert [steps_beyond(flat(), across, phase) for phase in across.phases] == [6, 0]
    with pytest.raises(RequestError, match=r"boundary 0\.9; here the a expert works from noise level 1 to 0\.7"):
        phase_ratios(flat(), across, across.phases[1], "resampled")
    one = replace(flat(), boundary=None, phases=(replace(flat().phases[0], expert="single"),))
    with pytest.raises(RequestError, match="is of one expert, the schedule has a, b"):
        phase_ratios(one, fine, fine.phases[0], "resampled")


def test_a_table_plans_the_phases_of_the_experts_that_it_serves_and_no_others() -> None:
    """On a host each of several models has a cache and a table of its own."""
    schedule = plan_phases(THREE.levels, [part("a", BOUNDARY), part("b", 0.5), part("a")])
    one = replace(flat(), boundary=None, phases=(replace(flat().phases[1], expert="single"),))
    networks = {"a": fingerprints({"single": tiny.t2v(5)})[0]}
    planned = plan_magcache(schedule, one, MAGCACHE, joint=True, networks=networks)
    assert [part.phase for part in planned.phases] == [schedule.phases[0], schedule.phases[2]]


def test_retention_goes_by_the_row_and_not_by_the_name() -> None:
    schedule = plan_phases(THREE.levels, [part("a", BOUNDARY), part("b")])
    settings = replace(MAGCACHE, retention=1.0, low_noise_retention=0.0)
    high, low = plan_magcache(schedule, flat(), settings, joint=True).phases
    assert (high.actions("positive"), low.actions("positive")) == ("CCCCCCC", "CSSCSSCSSCS")


def test_a_model_of_other_names_finds_a_table_of_both_networks_and_no_published_one(tmp_path: Any) -> None:
    table = flat(("high_noise", "low_noise"))
    (tmp_path / f"{'_'.join(network.name for network in table.weights)}.json").write_text(table.json(), "utf-8")
    for names in (("base", "fast"), ("fast", "base")):
        networks = dict(zip(names, PAIR.values(), strict=True))
        asked = request(part(names[0], BOUNDARY), part(names[1]))
        generation = ran(model(**networks), asked, cache=with_magcache(MAGCACHE, tables=[tmp_path]))
        assert set(letters(generation.report()).values()) == {"CSSCSSC", "CSSCSSCSSCS"}
    asked = request(part("a", 0.96), part("b", BOUNDARY), part("c"))
    with pytest.raises(LoadError, match="no ratio table for the experts a, b, c: published ones"):
        ran(model(a=tiny.t2v(1), b=tiny.t2v(3), c=tiny.t2v(2)), asked, cache=with_magcache(MAGCACHE, tables=[tmp_path]))


def test_experts_that_are_no_pair_have_a_table_each(tmp_path: Any) -> None:
    """Three checkpoints, each measured as a model of its own at another ratio."""
    networks = {"a": tiny.t2v(1), "b": tiny.t2v(3), "c": tiny.t2v(2)}
    levels, cache = plan(THREE.levels, 3.0).sigmas, with_magcache(MAGCACHE, tables=[tmp_path])
    asked = request(part("a", 0.96), part("b", BOUNDARY), part("c", 0.6), part("a"))
    for ratio, network in zip((0.92, 0.7, 0.99), networks.values(), strict=True):
        with pytest.raises(LoadError, match="none was measured on both together or on each by itself"):
            ran(model(**networks), asked, cache=cache)
        row = PhaseRatios(
            expert="single", sigmas=levels[:-1], ratios=dict.fromkeys(("positive", "negative"), (1.0, *[ratio] * (STEPS - 1)))
        )
        weights = fingerprints({"single": network})
        table = RatioTable(
            name=weights[0].name, sigmas=levels, shift=5.0, boundary=None, phases=(row,), source={}, weights=weights
        )
        (tmp_path / f"{table.name}.json").write_text(table.json(), "utf-8")
    generation = ran(model(**networks), asked, cache=cache)
    assert {first: row for (first, branch), row in letters(generation.report()).items() if branch == "positive"} == {
        0: "CSSC", 4: "CCC", 7: "CSSCSSC", 14: "CSSC",
    }  # fmt: skip
    planned = generation.plan()
    assert planned is not None and [part.phase for part in planned.phases] == list(asked.plan().phases)
    assert [part.actions("positive") for part in planned.phases] == ["CSSC", "CCC", "CSSCSSC", "CSSC"]
    settings = generation.report().caches[0].settings
    assert [settings[f"{expert} table"] for expert in networks] == [
        fingerprints({"single": network})[0].name for network in networks.values()
    ]


def test_one_of_a_pair_in_all_phases_is_served_by_the_pairs_table(tmp_path: Any) -> None:
    table = flat(("high_noise", "low_noise"))
    (tmp_path / "table.json").write_text(table.json(), "utf-8")
    asked = request(part("low_noise", 0.5), part("low_noise"))
    with pytest.raises(RequestError, match=r"Set boundary to 0\.9"):
        ran(model(), asked, cache=with_magcache(MAGCACHE, tables=[tmp_path]))


def test_networks_of_other_names_may_be_a_pair_or_checkpoints_of_their_own() -> None:
    from fastvideo_core.wan.parts import recognised

    row = VARIANTS["wan2.1_t2v_14B"]
    network = tiny.t2v()
    network.register_to_config(
        num_attention_heads=row.dim // 128, attention_head_dim=128, num_layers=row.layers, in_channels=16, out_channels=16
    )
    found = {
        names: [row.name for row in recognised(dict.fromkeys(names, network))]
        for names in (("single",), ("base",), ("high_noise", "low_noise"), ("high_noise", "low_noise", "x"), ("base", "fast"))
    }
    single, pair = ["wan2.1_t2v_14B"], ["wan2.2_t2v_A14B"]
    assert found == {
        ("single",): single, ("base",): single, ("high_noise", "low_noise"): pair, ("high_noise", "low_noise", "x"): pair,
        ("base", "fast"): single + pair,
    }  # fmt: skip

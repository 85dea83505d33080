"""The report states what ran: its figures come from the account of calls, and it reads well for people and programs."""

import json
from dataclasses import fields, replace

import pytest
import tiny

from fastvideo_core import (
    AttentionReport,
    CachePhaseReport,
    CacheReport,
    Contribution,
    Guidance,
    GuidanceSettings,
    RunReport,
    SamplingRequest,
    SparseReport,
    TextReport,
    phase_reports,
    plan,
    ran_as,
    shifted_sigmas,
)


def report(**changes: object) -> RunReport:
    asked = SamplingRequest(
        steps=6,
        shift=5.0,
        guidance_scale=4.0,
        low_noise_guidance_scale=1.0,
        boundary=0.875,
        seed=3,
        guidance=GuidanceSettings(mode="batched", gate=0.3),
    )
    networks = {"high_noise": tiny.t2v(1), "low_noise": tiny.t2v(2)}
    steps, guidance = tiny.run(asked, networks, tiny.conditioning())
    seconds = tuple(step.seconds for step in steps)
    facts: dict[str, object] = {
        "model": "tiny", "variant": "wan2.2_t2v_A14B", "solver": asked.solver, "sigmas": guidance.schedule.sigmas,
        "guidance_mode": "batched", "guidance_reason": guidance.reason, "phases": phase_reports(guidance),
        "latent_shape": tiny.SHAPE, "device": "cpu", "dtype": "float32", "seed": asked.seed, "step_seconds": seconds,
        "total_seconds": sum(seconds), "peak_memory_bytes": None,
    }  # fmt: skip
    return RunReport(**(facts | changes))


def test_phases_report_the_calls_that_were_made() -> None:
    high, low = report().phases
    assert (high.expert, high.steps, high.first_sigma, high.guidance_scale) == ("high_noise", 3, 1.0, 4.0)
    assert (high.calls, high.reused_negative) == ({"1": 2, "2": 1}, 2)  # int(6 * 0.3) = 1 step before the gate
    assert (low.expert, low.steps, low.guidance_scale) == ("low_noise", 3, 1.0)
    assert (low.calls, low.reused_negative) == ({"1": 3}, 0)


def test_json_holds_every_figure() -> None:
    made = report(notes=("a note",))
    data = json.loads(made.json())
    assert data["seed"] == 3
    assert data["phases"][0]["calls"] == {"1": 2, "2": 1}
    assert data["sigmas"] == list(made.sigmas)
    assert data["step_seconds"] == list(made.step_seconds)
    assert data["notes"] == ["a note"]


ATTENTION = AttentionReport(
    expert="single", part="self-attention", asked="auto", backend="sdpa", why="as asked", calls=6, network_calls=3, rejected={}
)
TEXT = TextReport(expert="single", rows=512, read=16, why="", keys_kept=True)
SPARSE = SparseReport(expert="single", variant="STA", settings={"tile": 4}, sparse_calls=2, dense_calls=1, density=0.5)
KEYS = {
    "": "version model variant solver sigmas guidance_mode guidance_reason phases latent_shape device dtype seed step_seconds "
    "total_seconds peak_memory_bytes notes caches prompt_seconds attention sparse texts patches prompt networks moves first_step "
    "seconds_saved",
    "phases": "expert steps first_sigma guidance_scale calls reused_negative loras",
    "caches": "name settings phases aside bypassed blocks_ran blocks_asked peak_bytes",
    "caches.phases": "expert first_step branch plan computed skipped reasons",
    "attention": "expert part asked backend why calls network_calls rejected exact_backend exact_calls",
    "texts": "expert rows read why keys_kept",
    "sparse": "expert variant settings sparse_calls dense_calls density",
    "seconds_saved": "middle low high",
}
"""Of the JSON's version 1, in their order. One that goes, or means something else, is another version."""


def test_the_json_has_the_keys_of_its_version() -> None:
    caches = cached(high_noise_positive="CCS", high_noise_negative="CCS", low_noise_positive="CCS")
    made = report(caches=caches, attention=(ATTENTION,), texts=(TEXT,), sparse=(SPARSE,), step_seconds=(1.0,) * 6)
    data = json.loads(made.json())
    assert next(iter(data.items())) == ("version", 1)
    rows = {"": data, **{name: data[name][0] for name in ("phases", "caches", "attention", "texts", "sparse")}}
    rows |= {"caches.phases": data["caches"][0]["phases"][0], "seconds_saved": data["seconds_saved"]}
    assert {name: list(row) for name, row in rows.items()} == {name: keys.split() for name, keys in KEYS.items()}


def test_contributions_are_joined_in_their_order_and_read_as_in_the_report() -> None:
    first = Contribution(attention=(ATTENTION,), notes=("one thing",))
    both = first + Contribution(attention=(replace(ATTENTION, part="cross-attention"),), texts=(TEXT,), notes=("another",))
    assert [row.part for row in both.attention] == ["self-attention", "cross-attention"]
    assert (both.texts, both.notes, both.caches, both.sparse) == ((TEXT,), ("one thing", "another"), (), ())
    whole = Contribution(caches=cached(high_noise_positive="CCS"), sparse=(SPARSE,))
    rows = {field.name: getattr(both + whole, field.name) for field in fields(Contribution)}
    text = report(**rows).text().splitlines()
    assert [line.removeprefix("note: ") for line in text if "time saved" not in line][6:] == (both + whole).lines()
    assert len((both + whole).lines()) == 8


def test_text_says_what_ran_line_by_line() -> None:
    made = report(step_seconds=(0.5, 0.2, 0.3), total_seconds=1.04, peak_memory_bytes=3 * 2**29, notes=("one thing", "another"))
    assert made.text().splitlines() == [
        "1.0 s, 0.300 s per step; 22% of the branches saved by the gate",
        "tiny (wan2.2_t2v_A14B), float32 on cpu",
        "3 steps unipc, latents 1x16x3x4x6, seed 3",
        "high-noise expert: 3 steps from sigma 1.000, guidance scale 4; calls: 2 x 1 branch, 1 x 2 branches; "
        "negative branch reused in 2 steps",
        "low-noise expert: 3 steps from sigma 0.833, guidance scale 1; calls: 3 x 1 branch",
        "guidance: batched (as asked)",
        "peak memory: 1.50 GiB",
        "note: one thing",
        "note: another",
    ]


def cached(**plans: str) -> tuple[CacheReport, ...]:
    """What a cache did in the phases of `report()`: "expert_branch" and its letters."""
    rows, starts = [], {"high_noise": 0}
    for place, letters in plans.items():
        expert, _, branch = place.rpartition("_")
        first_step = starts.setdefault(expert, max(row.first_step + len(row.plan) for row in rows) if rows else 0)
        counts = {"computed": letters.count("C"), "skipped": letters.count("S"), "reasons": {}}
        rows.append(CachePhaseReport(expert=expert, first_step=first_step, branch=branch, plan=letters, **counts))
    facts = {"settings": {}, "aside": "", "bypassed": 0, "blocks_ran": 1, "blocks_asked": 2, "peak_bytes": 2**20}
    return (CacheReport(name="MagCache", phases=tuple(rows), **facts),)


def test_the_time_saved_goes_by_the_medians_of_the_phase() -> None:
    caches = cached(high_noise_positive="CCCCCSS", high_noise_negative="CCCCCSS", low_noise_positive="CSS")
    phases = (replace(report().phases[0], steps=7), replace(report().phases[1], steps=3))
    seconds = (9.0, 3.0, 1.0, 1.0, 1.0, 0.25, 0.25, 2.0, 0.5, 0.5)  # the first one loads and warms up
    saved = report(caches=caches, phases=phases, step_seconds=seconds).seconds_saved
    assert saved is not None and saved.middle == 2 * (1 - 0.25) + 2 * (2.0 - 0.5)
    assert saved.low < saved.middle < saved.high  # of few steps
    made = report(caches=caches, phases=phases, step_seconds=seconds)
    assert "time saved: about 4.50 s (" in made.text() and "by the medians of computed and skipped steps" in made.text()
    assert json.loads(made.json())["seconds_saved"]["middle"] == 4.5


def test_the_first_line_tells_seconds_speed_and_each_share_that_was_saved() -> None:
    plain = report(phases=(), step_seconds=(2.0, 1.0, 1.0), total_seconds=4.0)
    assert plain.headline == "4.0 s, 1.000 s per step"
    phases = (replace(report().phases[0], steps=10, calls={"2": 10}, reused_negative=0),)
    fast = replace(plain, phases=phases, caches=cached(high_noise_positive="CCCCCCCCSS"), step_seconds=(1.0,) * 8 + (0.5,) * 2)
    assert fast.headline == "4.0 s, 1.000 s per step; 50% of the block calls saved by MagCache (about 1.11 times as fast)"
    aside = replace(plain, caches=(replace(fast.caches[0], aside="of few steps"),))
    assert aside.headline == plain.headline
    sparse = replace(plain, sparse=(SPARSE, replace(SPARSE, expert="low_noise", sparse_calls=3, dense_calls=0)))
    assert sparse.headline == "4.0 s, 1.000 s per step; 42% of self-attention's pairs of tokens saved by STA"


def test_time_saved_within_the_spread_is_not_claimed() -> None:
    caches = cached(high_noise_positive="CCCCSCCCSS", high_noise_negative="CCCCSCCCSS")
    phases = (replace(report().phases[0], steps=10),)
    made = report(caches=caches, phases=phases, step_seconds=(1.0, 0.6, 1.4, 0.7, 0.8, 1.3, 0.7, 1.2, 0.9, 0.6))
    assert "time saved: not distinguishable from none (" in made.text()


def test_a_skipped_step_is_compared_with_steps_of_the_same_branches() -> None:
    # Behind the gate the negative branch does not run; its skipped step has no computed one to compare with.
    caches = cached(high_noise_positive="CCS", high_noise_negative="CS-", low_noise_positive="CCC")
    saved = report(caches=caches, step_seconds=(2.0, 1.5, 0.5, 1.0, 1.0, 1.0)).seconds_saved
    assert saved is not None and saved.middle == 0.5


def test_nothing_is_said_of_time_saved_where_no_cache_skipped() -> None:
    for caches in ((), cached(high_noise_positive="CCC"), cached(high_noise_positive="SCC")[:0]):
        assert report(caches=caches).seconds_saved is None
    assert "time saved" not in report().text()


def test_a_run_that_was_stopped_saved_what_it_had_skipped() -> None:
    caches = cached(high_noise_positive="CS-", high_noise_negative="CS-")
    saved = report(caches=caches, step_seconds=(2.0, 0.5)).seconds_saved
    assert saved is not None and saved.middle == 1.5


def test_a_run_stopped_before_its_first_step_is_reported_too() -> None:
    guidance = Guidance(plan(shifted_sigmas(4, 5.0), 5.0), GuidanceSettings())
    made = report(phases=phase_reports(guidance), step_seconds=(), total_seconds=0.0)
    assert "single expert: 4 steps from sigma 1.000, guidance scale 5; calls: none" in made.text()


@pytest.mark.parametrize(
    ("settings", "scale", "ran"),
    [
        (GuidanceSettings(mode="batched"), 4.0, ("batched", "as asked")),
        (GuidanceSettings(mode="batched", gate=0.5), 4.0, ("batched", "as asked")),
        (GuidanceSettings(mode="sequential"), 4.0, ("sequential", "as asked")),
        (GuidanceSettings(mode="batched"), 1.0, ("off", "no step ran the negative branch")),
    ],
)
def test_how_guidance_ran_is_read_from_the_calls(settings: GuidanceSettings, scale: float, ran: tuple[str, str]) -> None:
    asked = SamplingRequest(steps=4, shift=5.0, guidance_scale=scale, guidance=settings)
    assert ran_as(tiny.run(asked, {"single": tiny.t2v()}, tiny.conditioning())[1]) == ran

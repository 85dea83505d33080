"""A step cache on a whole model: `WanModel.generate(..., cache=...)` on the demo model and on tiny ones."""

from dataclasses import replace

import pytest
import torch
from tiny_model import model_of, small

from fastvideo_core import (
    DBCacheSettings,
    Generation,
    GuidanceSettings,
    LoadError,
    MagCacheSettings,
    NewCache,
    RequestError,
    SamplingRequest,
    WanModel,
    load_demo,
    with_dbcache,
    with_magcache,
)
from fastvideo_core.step_cache import CachedExperts, RatioTable
from fastvideo_core.wan import WanExperts
from fastvideo_core.wan.memory import MARGIN, activation_bytes

REQUEST = SamplingRequest(steps=8, shift=5.0, guidance_scale=3.0, seed=3, guidance=GuidanceSettings(mode="batched"))
SETTINGS = MagCacheSettings(threshold=0.2, max_skips=2)
HIDDEN_BYTES = 5 * 4 * 4 * 256 * 4
"""One branch of the demo's video between two blocks: a token per 2 x 2 latents, 256 values each, float32."""


@pytest.fixture(scope="module")
def demo() -> WanModel:
    return load_demo("t2v")


def run(model: WanModel, request: SamplingRequest = REQUEST, cache: NewCache | None = None) -> Generation:
    generation = begun(model, request, cache)
    list(generation)
    return generation


def begun(model: WanModel, request: SamplingRequest = REQUEST, cache: NewCache | None = None) -> Generation:
    size = model.video_size(width=64, height=64, frames=17)
    return model.generate(request, model.condition("a red circle moving left", "", size), size, cache)


def tiny_table(request: SamplingRequest) -> RatioTable:
    from magcache_run import flat_table

    return flat_table(request.plan(), boundary=request.boundary)


def test_the_demo_model_finds_its_own_ratio_table_and_skips_steps(demo: WanModel) -> None:
    generation = run(demo, cache=with_magcache(SETTINGS))
    (cache,) = generation.report().caches
    assert cache.name == "MagCache" and cache.settings["threshold"] == 0.2
    assert cache.blocks_ran < cache.blocks_asked == 8 * 4
    assert not torch.equal(generation.latents, run(demo).latents)


def test_the_plan_that_is_known_before_the_run_is_what_runs(demo: WanModel) -> None:
    generation = begun(demo, cache=with_magcache(SETTINGS))
    plan = generation.plan()
    list(generation)
    ran = {(row.expert, row.branch): row.plan for row in generation.report().caches[0].phases}
    assert ran == {(part.phase.expert, branch): part.actions(branch) for part in plan.phases for branch in part.branches}
    assert "S" in ran["single", "positive"]


def test_without_a_cache_or_with_one_that_looks_at_the_video_there_is_no_plan(demo: WanModel) -> None:
    assert begun(demo).plan() is None
    assert begun(demo, cache=with_dbcache()).plan() is None


def test_a_cache_that_stands_aside_says_so_in_its_plan_and_report(demo: WanModel) -> None:
    generation = run(demo, replace(REQUEST, guidance_scale=1.0), with_dbcache())
    assert "stands aside: a run of 8 steps without guidance" in generation.plan().text()
    assert "stands aside: a run of 8 steps without guidance" in generation.report().text()


@pytest.mark.parametrize(
    "cache",
    [with_magcache(replace(SETTINGS, threshold=0.0)), with_dbcache(DBCacheSettings(threshold=0.0))],
    ids=["MagCache", "DBCache"],
)
def test_at_threshold_0_the_video_is_that_of_no_cache(demo: WanModel, cache: NewCache) -> None:
    assert torch.equal(run(demo, cache=cache).latents, run(demo).latents)


@pytest.mark.parametrize("cache", [with_magcache(SETTINGS), with_dbcache()], ids=["MagCache", "DBCache"])
def test_each_generation_gets_a_fresh_cache(demo: WanModel, cache: NewCache) -> None:
    first, second = run(demo, cache=cache), run(demo, cache=cache)
    assert torch.equal(first.latents, second.latents)
    assert first.cache is not second.cache
    assert first.report().caches == second.report().caches


@pytest.mark.parametrize("cache", [with_magcache(SETTINGS), with_dbcache()], ids=["MagCache", "DBCache"])
def test_a_generation_that_is_closed_early_holds_nothing(demo: WanModel, cache: NewCache) -> None:
    blocks = list(demo.transformers["single"].blocks)
    generation = begun(demo, cache=cache)
    next(generation)
    assert generation.cache.held_bytes > 0
    generation.close()
    assert generation.cache.held_bytes == 0
    assert list(demo.transformers["single"].blocks) == blocks


def test_two_experts_are_skipped_each_by_its_own_plan() -> None:
    ours = model_of("t2v two experts")
    size = small(ours)
    request = replace(REQUEST, steps=12, boundary=0.9)
    cache = with_magcache(SETTINGS, table=tiny_table(request))
    generation = ours.generate(request, ours.condition("a cat", "blurry", size), size, cache)
    list(generation)
    rows = {(row.expert, row.branch): row for row in generation.report().caches[0].phases}
    assert {expert for expert, _ in rows} == {"high_noise", "low_noise"}
    assert all(row.plan[0] == "C" and "S" in row.plan for row in rows.values())


def test_a_model_without_a_ratio_table_is_refused_before_the_first_step() -> None:
    ours = model_of("t2v")
    size = small(ours)
    with pytest.raises(LoadError, match=r"MagCache has no ratio table for this model \(not a published size"):
        ours.generate(REQUEST, ours.condition("a cat", "", size), size, with_magcache())


def test_a_table_of_another_schedule_is_refused_before_the_first_step(demo: WanModel) -> None:
    with pytest.raises(RequestError, match=r"Set shift to 5"):
        begun(demo, replace(REQUEST, shift=3.0), with_magcache(replace(SETTINGS, mode="nearest")))


@pytest.mark.parametrize(
    ("cache", "held"),
    [
        (None, 0),
        (with_magcache(SETTINGS), 2),
        (with_magcache(replace(SETTINGS, residuals_on_cpu=True)), 1),
        (with_dbcache(), 5),
    ],
    ids=["no cache", "MagCache", "MagCache on the CPU", "DBCache"],
)
def test_auto_guidance_counts_what_the_cache_will_hold(demo: WanModel, cache: NewCache | None, held: int) -> None:
    small, large = (1, 16, 5, 8, 8), (1, 16, 81, 128, 128)
    plain, needed = (activation_bytes(demo.transformers["single"], small, 2, tokens) for tokens in (0, held))
    assert needed == pytest.approx(plain + 2 * held * HIDDEN_BYTES * MARGIN, abs=1)
    generation = begun(demo, cache=cache)
    schedule, cpu = generation.guidance.schedule, torch.device("cpu")
    experts = WanExperts(demo.transformers, generation.conditioning, large, cpu, cpu)
    through = experts if generation.cache is None else CachedExperts(experts, schedule, generation.cache)
    with through.active(schedule.phases[0]) as denoiser:
        _, words = denoiser.fits_batched()
    needed = activation_bytes(demo.transformers["single"], large, 2, held)
    assert f"both branches need about {needed / 2**30:.2f} GiB" in words


def test_what_a_cache_holds_is_within_what_was_counted(demo: WanModel) -> None:
    for cache, held in ((with_magcache(SETTINGS), 2), (with_dbcache(), 5)):
        (report,) = run(demo, cache=cache).report().caches
        assert 0 < report.peak_bytes <= 2 * held * HIDDEN_BYTES


def test_memory_of_the_process_is_reported_on_the_cpu(demo: WanModel) -> None:
    weights = sum(weight.nbytes for weight in demo.transformers["single"].parameters())
    assert run(demo).report().peak_memory_bytes > weights


def test_the_sizes_of_the_demo_are_those_of_its_network(demo: WanModel) -> None:
    config = demo.transformers["single"].config
    assert (config.num_attention_heads * config.attention_head_dim, config.num_layers) == (demo.variant.dim, demo.variant.layers)

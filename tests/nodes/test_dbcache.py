"""FastVideo DBCache: the same decisions and video behind both doors and with cache-dit, neutral where it should be, and nothing
left behind."""

from dataclasses import asdict
from typing import Any

import pytest
import torch
from caching import attributes, counted_blocks, cut, module_of, plans
from caching import cached as magcached
from sampling import SETTINGS, latent_of, relative_error, run_chain, run_ksampler, run_node, shifted, sigmas_of
from test_parity_engine import engine_conditioning
from torch import Tensor

from fastvideo_core import DBCacheSettings, Guidance, GuidanceSettings, RequestError, SamplingRequest, generate, seeded_noise
from fastvideo_core.step_cache import DBCACHE_PRESETS, CachedExperts, CacheDiT, DBCache
from fastvideo_core.wan import WanExperts
from fastvideo_core.wan.loading import load_transformer

pytestmark = pytest.mark.usefixtures("direct")

KINDS = ["t2v", "i2v", "i2v_clip", "ti2v"]
CUSTOM: dict[str, Any] = {
    "threshold": 0.6, "first_blocks": 1, "last_blocks": 0, "warmup_steps": 1, "max_skips": 0, "max_skipped_steps": 0,
    "taylor_order": 1,
}  # fmt: skip


def cached(host: Any, model: Any, preset: str = "custom", on_cpu: bool = False, enabled: bool = True, **custom: Any) -> Any:
    """The MODEL through the node."""
    inputs = {"preset": preset, **({**CUSTOM, **custom} if preset == "custom" else {})}
    node = host.node_classes["FastVideoDBCache"]
    return node.execute(model=model, enabled=enabled, preset=inputs, residuals_on_cpu=on_cpu).args[0]


def settings_of(**custom: Any) -> DBCacheSettings:
    return DBCacheSettings(**{**CUSTOM, "max_skips": None, "max_skipped_steps": None, **custom})


def engine(
    host: Any,
    model: Any,
    kind: str,
    seeds: tuple[int, ...],
    settings: DBCacheSettings,
    cache: type[DBCache] = DBCache,
    **changes: Any,
) -> tuple[Tensor, Any]:
    """The same request through the engine, on the same weights. Returns LATENT samples and the report."""
    asked = {**SETTINGS, **changes}
    two = len(seeds) == 2
    request = SamplingRequest(
        steps=asked["steps"], shift=asked["shift"], guidance_scale=asked["guidance_scale"], seed=asked["seed"],
        low_noise_guidance_scale=asked["low_noise_guidance_scale"] if two else None,
        boundary=asked["boundary"] if two else None, solver=asked["solver"],
        guidance=GuidanceSettings(mode=asked["guidance_mode"], gate=asked["gate"]),
    )  # fmt: skip
    names = ("high_noise", "low_noise") if two else ("single",)
    files = [host.model_folder("diffusion_models") / f"{kind}_{seed}.safetensors" for seed in seeds]
    shape, cpu, condition = tuple(latent_of(kind)["samples"].shape), torch.device("cpu"), engine_conditioning(model, kind)
    experts = WanExperts(dict(zip(names, map(load_transformer, files), strict=True)), condition, shape, cpu, cpu)
    opened = cache(request.plan(), settings)
    guidance = Guidance(request.plan(), request.guidance)
    through = CachedExperts(experts, request.plan(), opened)
    *_, last = generate(request, through, condition, seeded_noise(shape, request.seed), guidance)
    return model.model.process_latent_out(last.latents), opened.report()


@pytest.mark.parametrize("kind", KINDS)
def test_three_ways_make_the_same_decisions_and_the_same_video(comfy: Any, load_wan: Any, kind: str) -> None:
    """The node, the engine's own DBCache, and cache-dit."""
    pytest.importorskip("cache_dit", reason="cache-dit (optional) is not installed")
    model = load_wan(kind)
    ours, report = run_node(comfy, cached(comfy, model), kind)
    for cache in (DBCache, CacheDiT):
        latents, expected = engine(comfy, model, kind, (0,), settings_of(), cache)
        assert [row.plan for row in report.caches[0].phases] == [row.plan for row in expected.phases]
        assert (report.caches[0].blocks_ran, report.caches[0].blocks_asked) == (expected.blocks_ran, expected.blocks_asked)
        assert relative_error(ours, latents) < 1e-5
    assert cut(report) > 0
    assert relative_error(ours, run_node(comfy, model, kind)[0]) > 1e-5


@pytest.mark.parametrize(
    "custom",
    [{"taylor_order": 0}, {"taylor_order": 2, "warmup_steps": 3, "threshold": 0.7}, {"max_skips": 1}, {"max_skipped_steps": 2}],
    ids=str,
)
@pytest.mark.parametrize("mode", ["batched", "sequential"])
def test_both_doors_agree_whatever_the_settings(comfy: Any, load_wan: Any, custom: dict[str, Any], mode: str) -> None:
    model = load_wan("i2v")
    ours, report = run_node(comfy, cached(comfy, model, **custom), "i2v", guidance_mode=mode)
    latents, expected = engine(comfy, model, "i2v", (0,), settings_of(**custom), guidance_mode=mode)
    assert report.caches[0].phases == expected.phases and cut(report) > 0
    assert relative_error(ours, latents) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [{}, {"guidance_mode": "sequential"}, {"gate": 0.25}, {"low_noise_guidance_scale": 1.0}, {"solver": "unipc"}],
    ids=str,
)
def test_both_doors_agree_on_two_experts(comfy: Any, load_wan: Any, changes: dict[str, Any]) -> None:
    high, low = load_wan("t2v", 0), load_wan("t2v", 1)
    custom = {"threshold": 0.7, "warmup_steps": 1}
    nodes = cached(comfy, high, **custom), cached(comfy, low, **{**custom, "warmup_steps": 3})
    ours, report = run_node(comfy, nodes[0], "t2v", nodes[1], **changes)
    settings = settings_of(**custom, low_noise_warmup_steps=3)
    latents, expected = engine(comfy, high, "t2v", (0, 1), settings, **changes)
    assert tuple(row for cache in report.caches for row in cache.phases) == expected.phases
    assert next(row.plan[:3] for row in expected.phases if row.expert == "low_noise") == "CCC"
    assert relative_error(ours, latents) < 1e-5


def test_one_expert_may_be_cached_alone(comfy: Any, load_wan: Any) -> None:
    high, low = load_wan("t2v", 0), load_wan("t2v", 1)
    for one, name in (((cached(comfy, high), low), "high_noise"), ((high, cached(comfy, low)), "low_noise")):
        _, report = run_node(comfy, one[0], "t2v", one[1])
        assert {expert for expert, _ in plans(report)} == {name} and len(report.caches) == 1


def test_under_core_ksampler_it_is_the_same(comfy: Any, load_wan: Any) -> None:
    model = cached(comfy, load_wan())
    assert relative_error(run_ksampler(model), run_node(comfy, model)[0]) < 1e-5


@pytest.mark.parametrize("preset", ["custom", "auto"])
def test_chained_samplers_are_the_two_experts_of_our_sampler(comfy: Any, load_wan: Any, preset: str) -> None:
    """At auto, too: a sampler that runs 4 of 8 steps has the threshold of 8."""
    high, low = (cached(comfy, load_wan("t2v", seed), preset) for seed in (0, 1))
    ours, report = run_node(comfy, high, "t2v", low)
    with counted_blocks(high, low) as runs:
        chained = run_chain(high, low, "t2v", report.phases[0].steps)
    assert len(runs) == 8  # the first block of each step
    assert relative_error(chained, ours) < 1e-5


@pytest.mark.parametrize(("steps", "parts"), [(20, (8, 12)), (40, (1, 39))])
def test_a_part_of_a_schedule_is_known_by_its_levels(comfy: Any, load_wan: Any, steps: int, parts: tuple[int, int]) -> None:
    sigmas, change = sigmas_of(steps).tolist(), parts[0]
    parts_of = [part_of(comfy, load_wan(), levels) for levels in (sigmas[: change + 1], sigmas[change:])]
    found = [part.part(None)[0].whole_steps for part in parts_of]
    assert found == pytest.approx([steps, steps])


def part_of(host: Any, model: Any, levels: list[float]) -> Any:
    """A sampler's part of a schedule."""
    native = module_of(host, "native.generation")
    return native.NativeGeneration(
        model=shifted(model, 5.0), facts=module_of(host, "native.facts").wan_facts(model), sigmas=tuple(levels),
        guidance_scale=4.0, planned=None, two_networks=False, partial=True, latent_shape=(1, 16, 3, 8, 8),
        first_frame=False, gate=1.0, recipes=(),
    )  # fmt: skip


def test_disabled_it_gives_the_model_as_it_came(comfy: Any, load_wan: Any) -> None:
    assert cached(comfy, load_wan(), enabled=False) is load_wan()


@pytest.mark.parametrize("threshold", [0.0, 1e-12], ids=["off", "never reached"])
@pytest.mark.parametrize("mode", ["batched", "sequential"])
def test_a_neutral_threshold_changes_no_bit(comfy: Any, load_wan: Any, threshold: float, mode: str) -> None:
    """At 0 the cache stands aside; at 1e-12 it works and never skips."""
    plain = run_node(comfy, load_wan(), guidance_mode=mode)[0]
    ours, report = run_node(comfy, cached(comfy, load_wan(), threshold=threshold), guidance_mode=mode)
    assert torch.equal(ours, plain)
    assert ("its threshold is 0, which is off." in report.text()) == (threshold == 0)
    assert cut(report) == 0


def test_a_second_run_is_the_first_one_again_and_nothing_is_left(comfy: Any, load_wan: Any) -> None:
    base = load_wan()
    plain, model, before = run_node(comfy, base)[0], cached(comfy, base), attributes(base)
    own = attributes(model)
    first, second = run_node(comfy, model)[0], run_node(comfy, model)[0]
    assert torch.equal(first, second) and not torch.equal(first, plain)
    assert (attributes(base), attributes(model)) == (before, own)
    assert torch.equal(run_node(comfy, base)[0], plain)


def test_residuals_on_the_cpu_make_the_same_video(comfy: Any, load_wan: Any) -> None:
    ours, report = run_node(comfy, cached(comfy, load_wan(), on_cpu=True))
    assert torch.equal(ours, run_node(comfy, cached(comfy, load_wan()))[0])
    assert report.caches[0].peak_bytes == 2 * 3 * (3 * 4 * 4 * 64 * 4)  # of both branches, three times 3 x 4 x 4 tokens of 64


def test_a_distilled_models_few_steps_are_left_alone(comfy: Any, load_wan: Any) -> None:
    few = {"guidance_scale": 1.0, "steps": 4}
    ours, report = run_node(comfy, cached(comfy, load_wan()), **few)
    assert torch.equal(ours, run_node(comfy, load_wan(), **few)[0])
    assert "DBCache stands aside: a run of 4 steps without guidance is that of a distilled model" in report.text()


def test_a_second_cache_is_refused_by_name(comfy: Any, load_wan: Any) -> None:
    from comfy_extras.nodes_easycache import EasyCacheNode

    model = load_wan()
    with pytest.raises(
        RequestError, match=r"FastVideo (DBCache and FastVideo MagCache|MagCache and FastVideo DBCache) are on one"
    ):
        run_node(comfy, magcached(comfy, cached(comfy, model)))
    with pytest.raises(RequestError, match="FastVideo DBCache and FastVideo DBCache are on one MODEL"):
        run_node(comfy, cached(comfy, cached(comfy, model), "quality"))
    with pytest.raises(RequestError, match="FastVideo DBCache and EasyCache are on one MODEL"):
        run_ksampler(EasyCacheNode.execute(cached(comfy, model), 0.2, 0.15, 0.95, False).args[0])


@pytest.mark.parametrize("preset", ["auto", "quality", "performance"])
def test_presets_are_the_engines(comfy: Any, load_wan: Any, preset: str) -> None:
    _, report = run_node(comfy, cached(comfy, load_wan(), preset))
    expected = DBCACHE_PRESETS[preset]
    assert report.caches[0].settings == {**asdict(expected), "threshold": expected.threshold_in(8)}


def test_settings_out_of_range_are_refused_by_the_node(comfy: Any, load_wan: Any) -> None:
    with pytest.raises(RequestError, match="The preset input got 'turbo': use one of auto, quality, performance, custom"):
        cached(comfy, load_wan(), "turbo")
    with pytest.raises(RequestError, match="first_blocks 2 and last_blocks 0 leave none of the network's 2 blocks"):
        cached(comfy, load_wan(), first_blocks=2)

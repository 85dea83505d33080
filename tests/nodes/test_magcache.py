"""FastVideo MagCache: the same decisions and video behind both doors, neutral where it should be, and nothing left behind."""

import gc
import weakref
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from caching import TINY, attributes, cached, counted_blocks, cut, flat_table, module_of, plans, put_table, weights_of
from sampling import SETTINGS, latent_of, relative_error, run_chain, run_ksampler, run_node
from test_parity_engine import engine_conditioning
from torch import Tensor

from fastvideo_core import Guidance, GuidanceSettings, RequestError, SamplingRequest, generate, seeded_noise
from fastvideo_core.step_cache import CachedExperts, MagCache, weights_hash
from fastvideo_core.step_cache.choose import CALIBRATED
from fastvideo_core.wan import WanExperts
from fastvideo_core.wan.loading import load_transformer

pytestmark = pytest.mark.usefixtures("direct")

KINDS = ["t2v", "i2v", "i2v_clip", "ti2v"]


@pytest.fixture(autouse=True, scope="module")
def tables(comfy: Any, load_wan: Any) -> None:
    for kind in KINDS:
        put_table(comfy, load_wan(kind))
    put_table(comfy, load_wan("t2v", 0), load_wan("t2v", 1))


def engine(host: Any, model: Any, kind: str, seeds: tuple[int, ...], trend: float = 0.0, **changes: Any) -> tuple[Tensor, Any]:
    """The same request through the engine, with MagCache around diffusers' blocks. Returns LATENT samples and the report."""
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
    cache = MagCache(request.plan(), flat_table("engine", request.boundary), replace(TINY, trend=trend))
    guidance = Guidance(request.plan(), request.guidance)
    through = CachedExperts(experts, request.plan(), cache)
    *_, last = generate(request, through, condition, seeded_noise(shape, request.seed), guidance)
    return model.model.process_latent_out(last.latents), cache.report()


@pytest.mark.parametrize("kind", KINDS)
def test_both_doors_skip_the_same_steps_and_make_the_same_video(comfy: Any, load_wan: Any, kind: str) -> None:
    model = load_wan(kind)
    ours, report = run_node(comfy, cached(comfy, model), kind)
    latents, expected = engine(comfy, model, kind, (0,))
    assert report.caches[0].phases == expected.phases and expected.phases[0].plan == "CSSCSSCS"
    assert relative_error(ours, latents) < 1e-5
    assert relative_error(ours, run_node(comfy, model, kind)[0]) > 1e-4


@pytest.mark.parametrize(
    "changes",
    [{}, {"guidance_mode": "sequential"}, {"gate": 0.25}, {"low_noise_guidance_scale": 1.0}, {"solver": "unipc"}],
    ids=str,
)
def test_both_doors_agree_on_two_experts(comfy: Any, load_wan: Any, changes: dict[str, Any]) -> None:
    high, low = load_wan("t2v", 0), load_wan("t2v", 1)
    ours, report = run_node(comfy, cached(comfy, high), "t2v", cached(comfy, low), **changes)
    latents, expected = engine(comfy, high, "t2v", (0, 1), **changes)
    assert tuple(row for cache in report.caches for row in cache.phases) == expected.phases
    assert relative_error(ours, latents) < 1e-5


@pytest.mark.parametrize("mode", ["batched", "sequential"])
def test_both_doors_continue_the_residuals_change_alike(comfy: Any, load_wan: Any, mode: str) -> None:
    model = load_wan()
    ours, _ = run_node(comfy, cached(comfy, model, trend=0.5), guidance_mode=mode)
    assert relative_error(ours, engine(comfy, model, "t2v", (0,), 0.5, guidance_mode=mode)[0]) < 1e-5
    assert relative_error(ours, engine(comfy, model, "t2v", (0,), guidance_mode=mode)[0]) > 1e-4


def test_each_expert_has_a_plan_of_its_own_and_may_be_cached_alone(comfy: Any, load_wan: Any) -> None:
    high, low = load_wan("t2v", 0), load_wan("t2v", 1)
    _, both = run_node(comfy, cached(comfy, high), "t2v", cached(comfy, low))
    assert plans(both) == {
        (expert, branch): "CSSC" for expert in ("high_noise", "low_noise") for branch in ("positive", "negative")
    }
    for one, name in (((cached(comfy, high), low), "high_noise"), ((high, cached(comfy, low)), "low_noise")):
        _, report = run_node(comfy, one[0], "t2v", one[1])
        assert {expert for expert, _ in plans(report)} == {name} and len(report.caches) == 1


def test_chained_samplers_are_the_two_experts_of_our_sampler(comfy: Any, load_wan: Any) -> None:
    high, low = (cached(comfy, load_wan("t2v", seed)) for seed in (0, 1))
    ours, report = run_node(comfy, high, "t2v", low)
    with counted_blocks(high, low) as runs:
        chained = run_chain(high, low, "t2v", report.phases[0].steps)
    assert len(runs) == 4
    assert relative_error(chained, ours) < 1e-5


def test_under_core_ksampler_it_is_the_same(comfy: Any, load_wan: Any) -> None:
    model = cached(comfy, load_wan())
    assert relative_error(run_ksampler(model), run_node(comfy, model)[0]) < 1e-5


@pytest.mark.parametrize(("first", "plan", "told"), [
    (6, "CSSCSC", "2 of the 6 steps of the high_noise expert lie beyond the boundary 0.875 of MagCache's ratio table"),
    (2, "CSSCSS", "2 of the 6 steps of the low_noise expert lie beyond"),
])  # fmt: skip
def test_a_chain_may_change_experts_beside_the_tables_boundary(
    comfy: Any, load_wan: Any, caplog: pytest.LogCaptureFixture, first: int, plan: str, told: str
) -> None:
    """As ComfyUI's own templates do: at half of the steps, wherever that is."""
    caplog.set_level("INFO")
    high, low = load_wan("t2v", 0), load_wan("t2v", 1)
    models = (cached(comfy, high), low) if first == 6 else (high, cached(comfy, low))
    with counted_blocks(*models) as runs:
        video = run_chain(*models, "t2v", first)
    assert f"noise positive: {plan}" in caplog.text and told in caplog.text
    assert len(runs) == 8 - plan.count("S")
    assert 1e-4 < relative_error(video, run_chain(high, low, "t2v", first)) < 0.5


@pytest.mark.parametrize("mode", ["resampled", "nearest"])
def test_a_chain_of_few_steps_without_guidance_is_left_alone(
    comfy: Any, load_wan: Any, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    """Distilled experts: 8 steps in two samplers, which change beside the boundary; twelve steps are another matter."""
    caplog.set_level("INFO")
    models = [cached(comfy, load_wan("t2v", seed), mode=mode) for seed in (0, 1)]
    middle = run_ksampler(models[0], cfg=1.0, start_step=0, last_step=6)
    rest = {"latent": {"samples": middle}, "disable_noise": True, "start_step": 6, "force_full_denoise": True}
    run_ksampler(models[1], cfg=1.0, **rest)
    assert caplog.text.count("stands aside: a run of 8 steps without guidance is that of a distilled model") >= 2
    caplog.clear()
    longer = cached(comfy, load_wan("t2v", 0))
    run_ksampler(longer, cfg=1.0, steps=12, start_step=0, last_step=6)
    assert "stands aside" not in caplog.text and "high_noise positive" in caplog.text


def test_a_boundary_that_the_table_was_not_measured_with_is_refused(comfy: Any, load_wan: Any) -> None:
    high, low = (cached(comfy, load_wan("t2v", seed)) for seed in (0, 1))
    with pytest.raises(RequestError, match=r"measured with boundary 0\.875.*Set boundary to 0\.875"):
        run_node(comfy, high, "t2v", low, boundary=0.95)


@pytest.mark.parametrize("mode", ["nearest", "official"])
def test_other_modes_want_the_shift_of_the_table_and_whole_schedules(comfy: Any, load_wan: Any, mode: str) -> None:
    model = cached(comfy, load_wan("t2v", 0), mode=mode)
    assert plans(run_node(comfy, model)[1])["single", "positive"] == "CSSCSSCS"
    with pytest.raises(RequestError, match=r"measured with shift 5.*Set shift to 5"):
        run_node(comfy, model, shift=8.0)
    with pytest.raises(RequestError, match=r"runs a part of one. Use mode resampled"):
        run_chain(model, load_wan("t2v", 1), "t2v", 4)


def test_branches_in_one_call_and_apart_are_the_same_where_they_agree(comfy: Any, load_wan: Any) -> None:
    model = cached(comfy, load_wan())
    (together, a), (apart, b) = (run_node(comfy, model, guidance_mode=mode) for mode in ("batched", "sequential"))
    assert plans(a) == plans(b)
    assert relative_error(together, apart) < 1e-5


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


@pytest.mark.parametrize("two", [False, True], ids=["one expert", "two experts"])
def test_a_model_that_nobody_holds_is_freed_at_once(comfy: Any, load_wan: Any, two: bool) -> None:
    """Not at the next garbage collection: until then ComfyUI takes it for a leak and collects garbage at every load."""
    models = [cached(comfy, load_wan("t2v", seed)) for seed in range(1 + two)]
    alive = [weakref.ref(model) for model in models]
    gc.collect()
    gc.disable()
    try:
        run_node(comfy, models[0], "t2v", models[1] if two else None)
        del models
        assert [reference() for reference in alive] == [None] * len(alive)
    finally:
        gc.enable()


def test_residuals_on_the_cpu_make_the_same_video(comfy: Any, load_wan: Any) -> None:
    ours, report = run_node(comfy, cached(comfy, load_wan(), on_cpu=True))
    assert torch.equal(ours, run_node(comfy, cached(comfy, load_wan()))[0])
    assert report.caches[0].peak_bytes == 2 * 3 * 4 * 4 * 64 * 4  # both branches, 3 x 4 x 4 tokens of 64 float32 values


def test_memory_that_the_residuals_need_is_part_of_comfyuis_estimate(
    comfy: Any, load_wan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfy import sampler_helpers

    estimates: list[float] = []
    estimate = sampler_helpers.estimate_memory

    def recorded(*args: Any) -> Any:
        estimates.append(estimate(*args)[0])
        return estimate(*args)

    monkeypatch.setattr(sampler_helpers, "estimate_memory", recorded)
    network, latent = load_wan(), {"samples": torch.zeros(1, 16, 3, 8, 8)}
    for model in (network, cached(comfy, network)):
        run_node(comfy, model, latent=latent, steps=2)
    assert estimates[1] - estimates[0] >= 2 * 3 * 4 * 4 * 64 * 4


def test_the_plan_is_told_before_the_run(comfy: Any, load_wan: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run_ksampler(cached(comfy, load_wan()))
    told, *_, done = (text for text in caplog.messages if "MagCache" in text)
    assert "ratio table" in told and "single positive CSSCSSCS (5 of 8 skipped)" in told
    assert "62% of the block calls saved" in done and "CSSCSSCS" in done


def test_a_distilled_models_few_steps_are_left_alone(comfy: Any, load_wan: Any) -> None:
    few = {"guidance_scale": 1.0, "steps": 4}
    ours, report = run_node(comfy, cached(comfy, load_wan()), **few)
    assert torch.equal(ours, run_node(comfy, load_wan(), **few)[0])
    assert "MagCache stands aside: a run of 4 steps without guidance is that of a distilled model" in report.text()


def test_auto_takes_what_the_table_recommends(comfy: Any, load_wan: Any) -> None:
    node = comfy.node_classes["FastVideoMagCache"]
    inputs = {"enabled": True, "preset": {"preset": "auto"}, "mode": "resampled", "residuals_on_cpu": False}
    _, report = run_node(comfy, node.execute(model=load_wan(), **inputs).args[0])
    settings = report.caches[0].settings
    assert {name: settings[name] for name in asdict(CALIBRATED)} == asdict(CALIBRATED)
    assert settings["table"] == weights_of(comfy, load_wan())


def test_weights_have_one_hash_at_both_doors(comfy: Any, load_wan: Any) -> None:
    model, file = load_wan(), comfy.model_folder("diffusion_models") / "t2v_0.safetensors"
    expected = weights_hash({"single": load_transformer(file)})
    assert weights_hash({"single": load_transformer(file, torch.bfloat16)}) == expected
    diffusers = comfy.node_classes["FastVideoLoadDiffusersModel"].execute(file.name, "as stored", "none", 1.0).args[0]
    assert {weights_of(comfy, m) for m in (model, diffusers)} == {expected}


@pytest.mark.parametrize(("kind", "experts"), [("t2v", 1), ("i2v", 1), ("two experts", 2)])
def test_the_demo_model_ships_calibrated(comfy: Any, kind: str, experts: int) -> None:
    models = comfy.node_classes["FastVideoLoadDemoWan"].execute(model=kind).args[:experts]
    name = "_".join(weights_of(comfy, model) for model in models)
    folders = module_of(comfy, "native.magcache").table_folders()
    assert [file.stem for folder in folders for file in folder.glob(f"{name}.json")] == [name]


def test_a_model_without_a_table_says_how_to_make_one(comfy: Any, load_wan: Any) -> None:
    from fastvideo_core import LoadError

    with pytest.raises(LoadError, match=r"no ratio table for this model.*Calibrate it"):
        run_node(comfy, cached(comfy, load_wan("t2v", 7)))


def test_settings_out_of_range_are_refused_by_the_node(comfy: Any, load_wan: Any) -> None:
    with pytest.raises(RequestError, match="The preset input got 'turbo': use one of auto, custom"):
        comfy.node_classes["FastVideoMagCache"].execute(load_wan(), True, {"preset": "turbo"}, "resampled", False)

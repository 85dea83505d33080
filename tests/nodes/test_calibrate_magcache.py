"""FastVideo Calibrate MagCache: the engine's measurement on native MODELs, found again by the weights."""

from typing import Any

import pytest
import torch
from caching import plans, weights_of
from graphs import node, sampler_prompt, with_inputs
from sampling import SETTINGS, Calls, conditions_of, latent_of, run_node
from test_composition import context_windows, scale_override
from test_parity_engine import engine_conditioning

from fastvideo_core import RequestError, SamplingRequest, seeded_noise
from fastvideo_core.step_cache import RatioTable, calibrate, read_table
from fastvideo_core.wan import WanExperts
from fastvideo_core.wan.loading import load_transformer

TEN = {"seed": 3, "steps": 10, "shift": 5.0, "guidance_scale": 4.0, "low_noise_guidance_scale": 3.0, "boundary": 0.875}


@pytest.fixture
def ratios(comfy: Any, direct: Any) -> Any:
    """The folder of tables, empty before and after."""
    folder = comfy.model_folder("fastvideo_ratios")
    kept = {file: file.read_bytes() for file in folder.iterdir()}
    for file in kept:
        file.unlink()
    yield folder
    for file in folder.iterdir():
        file.unlink()
    for file, content in kept.items():
        file.write_bytes(content)


def measured(host: Any, *experts: Any, kind: str = "t2v", **changes: Any) -> Any:
    """The node's outputs."""
    positive, negative = conditions_of(kind)
    inputs = {**TEN, "positive": positive, "negative": negative, "latent": latent_of(kind), "guidance_mode": "auto", **changes}
    second = {"low_noise_model": experts[1]} if len(experts) == 2 else {}
    return host.node_classes["FastVideoCalibrateMagCache"].execute(model=experts[0], **second, **inputs).args


def engine_table(host: Any, model: Any, kind: str, seeds: tuple[int, ...]) -> RatioTable:
    two = len(seeds) == 2
    request = SamplingRequest(
        steps=10, shift=5.0, guidance_scale=4.0, seed=3, low_noise_guidance_scale=3.0 if two else None,
        boundary=0.875 if two else None,
    )  # fmt: skip
    names = ("high_noise", "low_noise") if two else ("single",)
    files = [host.model_folder("diffusion_models") / f"{kind}_{seed}.safetensors" for seed in seeds]
    shape, cpu, condition = tuple(latent_of(kind)["samples"].shape), torch.device("cpu"), engine_conditioning(model, kind)
    experts = WanExperts(dict(zip(names, map(load_transformer, files), strict=True)), condition, shape, cpu, cpu)
    return calibrate(request, experts, condition, seeded_noise(shape, 3))


@pytest.mark.parametrize(("kind", "seeds"), [("t2v", (0,)), ("t2v", (0, 1)), ("ti2v", (0,)), ("i2v_clip", (0,))])
def test_the_table_is_the_engines(comfy: Any, load_wan: Any, ratios: Any, kind: str, seeds: tuple[int, ...]) -> None:
    models = [load_wan(kind, seed) for seed in seeds]
    measured(comfy, *models, kind=kind)
    (file,) = ratios.iterdir()
    ours, expected = read_table(file), engine_table(comfy, models[0], kind, seeds)
    assert file.stem == ours.name == expected.name == "_".join(weights_of(comfy, model) for model in models)
    assert (ours.sigmas, ours.shift, ours.boundary, ours.source) == (
        expected.sigmas, expected.shift, expected.boundary, expected.source,
    )  # fmt: skip
    for mine, theirs in zip(ours.phases, expected.phases, strict=True):
        for values, others in ((mine.ratios, theirs.ratios), (mine.deviation, theirs.deviation)):
            assert {branch: pytest.approx(row, abs=3e-5) for branch, row in others.items()} == values


def test_the_video_that_is_measured_is_the_plain_one(comfy: Any, load_wan: Any, ratios: Any) -> None:
    latent, report, text = measured(comfy, load_wan())
    plain = run_node(comfy, load_wan(), **{**SETTINGS, "steps": 10, "solver": "unipc"})[0]
    assert torch.equal(latent["samples"], plain)
    assert "each step computes and is measured" in report.text()
    assert f"{weights_of(comfy, load_wan())}.json" in text and "single positive C" in text


@pytest.mark.parametrize("two", [False, True], ids=["one expert", "two experts"])
def test_magcache_finds_what_was_measured(comfy: Any, load_wan: Any, ratios: Any, two: bool) -> None:
    models = [load_wan("t2v", seed) for seed in range(1 + two)]
    *_, text = measured(comfy, *models)
    magcache = comfy.node_classes["FastVideoMagCache"]
    through = [magcache.execute(model, True, {"preset": "auto"}, "resampled", False).args[0] for model in models]
    changes = {"steps": 10, "solver": "unipc"}
    _, report = run_node(comfy, through[0], "t2v", through[1] if two else None, **changes)
    assert {cache.settings["table"] for cache in report.caches} == {"_".join(weights_of(comfy, model) for model in models)}
    for (expert, branch), plan in plans(report).items():
        assert f"{expert} {branch} {plan} " in text  # it said beforehand what came
    assert any("S" in plan for plan in plans(report).values())


def test_a_model_with_a_cache_is_not_measured(comfy: Any, load_wan: Any, ratios: Any) -> None:
    magcache = comfy.node_classes["FastVideoMagCache"]
    model = magcache.execute(load_wan(), True, {"preset": "auto"}, "resampled", False).args[0]
    with pytest.raises(RequestError, match="FastVideo MagCache and FastVideo Calibrate MagCache are on one MODEL"):
        measured(comfy, model)
    assert list(ratios.iterdir()) == []


@pytest.mark.parametrize("what", ["combined", "range", "negative", "windows", "left out"])
def test_what_cannot_be_measured_is_told(comfy: Any, load_wan: Any, ratios: Any, what: str) -> None:
    """Before the run where it can be known, and in the first step where it is seen there."""
    (positive, negative), model, changes = conditions_of("t2v"), load_wan(), {}
    ranged = [[positive[0][0], {**positive[0][1], "start_percent": 0.0, "end_percent": 0.5}]]
    words = {
        "combined": "The positive conditioning has 2 parts. FastVideo Calibrate MagCache measures each branch as one prompt",
        "negative": "The negative conditioning has 2 parts",
        "range": "The positive conditioning holds a range of steps",
        "windows": "remove context windows. There were calls that did not count: they were context windows",
        "left out": "measured: positive 10, negative [0-9]+. Let the generation run to its end.* In this run: ",
    }[what]
    if what == "windows":
        model, changes = context_windows(comfy, model), {"latent": latent_of("t2v", frames=7)}
    if what == "left out":
        model = scale_override(comfy, model)
    prompts = {"combined": {"positive": [*positive, *negative]}, "negative": {"negative": [*positive, *negative]}}
    changes |= {**prompts, "range": {"positive": ranged}}.get(what, {})
    calls = Calls()
    with pytest.raises(RequestError, match=words):
        measured(comfy, calls.on(model, "DIFFUSION_MODEL"), **changes)
    assert calls.counts["DIFFUSION_MODEL"] <= {"windows": 1, "left out": 10}.get(what, 0)
    assert list(ratios.iterdir()) == []


def test_an_interrupted_calibration_writes_nothing(comfy: Any, load_wan: Any, ratios: Any) -> None:
    from comfy.model_management import InterruptProcessingException

    def stop(*_: Any) -> None:
        raise InterruptProcessingException

    hook = load_wan().model.diffusion_model.blocks[1].register_forward_pre_hook(stop)
    with pytest.raises(InterruptProcessingException):
        measured(comfy, load_wan())
    hook.remove()
    assert list(ratios.iterdir()) == []


def test_both_nodes_in_prompts(prompts: Any, ratios: Any) -> None:
    """As people run them: calibrate once, then with MagCache; the widgets as an API prompt has them."""
    sampling = sampler_prompt(steps=10, solver="unipc")
    links = {name: sampling["5"]["inputs"][name] for name in ("model", "positive", "negative", "latent")}
    first = {**sampling, "5": node("FastVideoCalibrateMagCache", **links, **TEN, guidance_mode="auto")}
    text = prompts.run(first).outputs["5"]["text"][0]
    preset = {"preset": "custom", "preset.threshold": 0.5, "preset.max_skips": 2, "preset.retention": 0.1, "preset.trend": 0.5}
    cache = node("FastVideoMagCache", model=["1", 0], enabled=True, mode="resampled", residuals_on_cpu=False, **preset)
    second = {**with_inputs(sampling, "5", model=["7", 0]), "7": cache}
    run = prompts.run(second, {"report": ("5", 1)})
    assert run.captured["report"].caches[0].settings["table"] in text
    assert plans(run.captured["report"])["single", "positive"].startswith("C")
    auto = {
        **second,
        "7": node("FastVideoMagCache", model=["1", 0], enabled=True, mode="resampled", residuals_on_cpu=False, preset="auto"),
    }
    assert prompts.run(auto, {"report": ("5", 1)}).captured["report"].caches[0].settings["threshold"] == 0.12

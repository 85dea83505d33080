"""FastVideo Recipe: what it recognises, what it gives to each sampler, and what it refuses."""

import re
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from graphs import guider_prompt, node, sampler_prompt, with_inputs
from phase_runs import RUN, with_lora
from sampling import SETTINGS, conditions_of, core_guider, latent_of, relative_error, run_guider, run_ksampler, run_node
from tiny_wan import save_lora, save_wan

from fastvideo_core import RECIPES, VARIANTS, RequestError, recipe

LORA = "wan2.1_lightx2v_cfg_step_distill_lora.safetensors"
RUNNABLE = [name for name, row in RECIPES.items() if not row.engine_only]
GUIDANCE = ("guidance_scale", "low_noise_guidance_scale", "boundary", "guidance_mode", "gate", "guidance_rescale")


def outputs(host: Any, name: str, *models: Any, base: Any = None) -> dict[str, Any]:
    """By name, of the node called with these MODELs."""
    given = dict(zip(("model", "low_noise_model"), models, strict=False)) | ({} if base is None else {"base_model": base})
    shown = [output.display_name for output in host.node_classes["FastVideoRecipe"].define_schema().outputs]
    return dict(zip(shown, host.node_classes["FastVideoRecipe"].execute(recipe=name, **given).args, strict=True))


def given_for(host: Any, load_wan: Any, name: str) -> dict[str, Any]:
    row = recipe(name)
    models = [load_wan("t2v", seed) for seed in range(len(row.experts))]
    if not row.has_base:
        return outputs(host, name, *models)
    return outputs(host, name, with_lora(host, models[0]), *models[1:], base=models[0])


def run_phase_sampler(host: Any, given: dict[str, Any], **changes: Any) -> tuple[torch.Tensor, Any]:
    positive, negative = conditions_of("t2v")
    inputs = {**RUN, "positive": positive, "negative": negative, "latent": latent_of("t2v"), **changes}
    chosen = {name: given[name] for name in ("phases", "sigmas", "solver")}
    latent, report = host.node_classes["FastVideoPhaseSampler"].execute(**{**inputs, **chosen}).args
    return latent["samples"], report


@pytest.mark.parametrize("name", RUNNABLE)
def test_every_recipe_runs_in_the_phase_sampler(direct: Any, load_wan: Any, name: str) -> None:
    row = recipe(name)
    _, report = run_phase_sampler(direct, given_for(direct, load_wan, name))
    assert report.sigmas == pytest.approx(row.levels.sigmas, abs=1e-6)
    assert report.solver == row.solver
    assert [phase.steps for phase in report.phases] == row.steps_of_phases()
    assert [phase.guidance_scale for phase in report.phases] == [phase.guidance_scale for phase in row.phases]
    assert len({phase.expert.removesuffix("_patched") for phase in report.phases}) == len(row.experts)


@pytest.mark.parametrize("name", ["lightx2v_wan2.2", "turbo_i2v", "turbo_i2v_ode", "fastwan_2.1_1.3b"])
def test_all_samplers_give_the_same_video(direct: Any, load_wan: Any, name: str) -> None:
    given = given_for(direct, load_wan, name)
    ours, report = run_phase_sampler(direct, given)
    models = [load_wan("t2v", seed) for seed in range(len(recipe(name).experts))]
    settings = {
        "sigmas": given["sigmas"], "solver": given["solver"], "guidance_scale": given["guidance_scale"],
        "low_noise_guidance_scale": given["guidance_scale"], "boundary": given["boundary"],
    }  # fmt: skip
    sampler, other = run_node(direct, models[0], low_noise_model=(models[1:] or [None])[0], **settings)
    assert torch.equal(ours, sampler) and other.phases == report.phases
    positive, negative = conditions_of("t2v")
    widgets = {key: SETTINGS[key] for key in GUIDANCE}
    guider = (
        direct.node_classes["FastVideoGuider"]
        .execute(phases=given["phases"], positive=positive, negative=negative, **widgets)
        .args[0]
    )
    custom = run_guider(guider, given["sampler"], given["sigmas"])
    assert torch.equal(ours, custom) and guider.report.solver == recipe(name).solver


def test_the_sampler_is_the_solver_under_core_s_guider(direct: Any, load_wan: Any) -> None:
    """As core's own euler."""
    given = given_for(direct, load_wan, "lightx2v_wan2.1")
    ours = run_guider(core_guider(load_wan(), cfg=1.0), given["sampler"], given["sigmas"])
    assert relative_error(ours, run_guider(core_guider(load_wan(), cfg=1.0), "euler", given["sigmas"])) < 1e-5
    assert relative_error(ours, run_phase_sampler(direct, given)[0]) < 1e-5


def recipe_prompt(host: Any, **changes: Any) -> dict[str, Any]:
    """Core's loaders, FastVideo Recipe as node "5", and a sampler that gets all from it as node "7"."""
    folder = host.model_folder("loras")
    save_lora(folder).replace(folder / LORA)
    prompt = sampler_prompt()
    prompt |= {
        "2": node("LoraLoaderModelOnly", model=["1", 0], lora_name=LORA, strength_model=1.0),
        "5": node("FastVideoRecipe", model=["2", 0], **{"recipe": "auto", **changes}),
        "6": node("FastVideoRunReport", report=["7", 1]),
        "7": node(
            "FastVideoPhaseSampler", phases=["5", 0], sigmas=["5", 1], solver=["5", 3], positive=["3", 0], negative=["3", 1],
            latent=["4", 0], **{name: value for name, value in RUN.items() if name != "solver"},
        ),
    }  # fmt: skip
    return prompt


def test_auto_recognises_the_lora_that_stands_in_the_prompt(prompts: Any) -> None:
    run = prompts.run(recipe_prompt(prompts), capture={"text": ("5", 6), "report": ("7", 1)})
    assert run.captured["text"].startswith("lightx2v_wan2.1: lightx2v 4 steps, Wan 2.1 14B")
    assert (
        f"recognised as lightx2v_wan2.1 (lightx2v 4 steps, Wan 2.1 14B T2V and I2V), for 'lightx2v' in the name {LORA}"
        in (run.captured["text"])
    )
    report = run.captured["report"]
    assert (report.solver, len(report.step_seconds)) == ("euler", 4)
    assert not any("By its names" in note for note in report.notes)


def test_a_lora_that_is_off_is_none(prompts: Any) -> None:
    from tools.comfy_in_process import PromptFailed

    prompt = recipe_prompt(prompts)
    prompt["2"]["inputs"]["strength_model"] = 0.0
    with pytest.raises(PromptFailed, match=r"recipe is auto, and nothing tells of a .* looked at t2v_0\.safetensors, and"):
        prompts.run(prompt)


def test_a_lora_is_off_by_its_strength_from_a_primitive_too(prompts: Any) -> None:
    """One number for the LoRAs of both experts, as in the templates of few steps."""
    from tools.comfy_in_process import PromptFailed

    prompt = recipe_prompt(prompts, recipe="auto, or as the model's authors") | {"8": node("PrimitiveFloat", value=1.0)}
    prompt["2"]["inputs"]["strength_model"] = ["8", 0]
    assert prompts.run(prompt, capture={"text": ("5", 6)}).captured["text"].startswith("lightx2v_wan2.1: ")
    prompt["8"] = node("PrimitiveFloat", value=0.0)
    with pytest.raises(PromptFailed, match=r"recipe is .auto, or as the model's authors., and neither .* 2 blocks of width 64"):
        prompts.run(prompt)


@pytest.mark.parametrize("name", ["wan2.1_t2v_14B", "wan2.2_t2v_A14B"])
def test_where_nothing_is_recognised_it_gives_the_full_run_of_the_authors(direct: Any, load_wan: Any, name: str) -> None:
    row = replace(VARIANTS[name], steps=6)
    models = [load_wan("t2v", seed) for seed in range(1 + row.two_experts)]
    node_class = direct.node_classes["FastVideoRecipe"]
    shown = [output.display_name for output in node_class.define_schema().outputs]
    given = dict(zip(shown, sys.modules[node_class.__module__].as_authors(row, models), strict=True))
    settings = {"steps": row.steps, "shift": row.shift, "solver": "unipc", "guidance_scale": row.guidance_scale}
    if row.two_experts:
        settings |= {"low_noise_guidance_scale": row.low_noise_guidance_scale, "boundary": row.boundary}
    by_hand, _ = run_node(direct, models[0], low_noise_model=(models[1:] or [None])[0], **settings)
    assert torch.equal(run_phase_sampler(direct, given)[0], by_hand)
    assert row.title in given["text"] and f"guidance {row.guidance_scale:g}" in given["text"]


def test_a_sampler_says_what_contradicts_the_lora(prompts: Any, caplog: pytest.LogCaptureFixture) -> None:
    cached = node("FastVideoDBCache", model=["2", 0], enabled=True, preset="auto", residuals_on_cpu=False)
    sampler = sampler_prompt(model=["5", 0], solver="unipc", steps=8)["5"]
    prompt = {**recipe_prompt(prompts), "5": cached, "7": sampler}
    run = prompts.run(prompt, capture={"report": ("7", 1)})
    told = [note for note in run.captured["report"].notes if note.startswith("By its names the model is one of lightx2v_wan2.1")]
    for words in ("guidance_scale is 4", "solver is unipc", "There are 8 steps", "A step cache is on"):
        assert sum(words in note for note in told) == 1
    assert len(told) == 4 and set(told) <= {record.message for record in caplog.records}


def with_lora_before(host: Any, prompt: dict[str, Any], name: str, **inputs: Any) -> dict[str, Any]:
    """The prompt, in which node `name` has the MODEL with the LoRA."""
    return {**with_inputs(prompt, name, **inputs), "2": recipe_prompt(host)["2"]}


def told_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.message.startswith("By its names the model is one of lightx2v")]


def test_the_guider_says_it_by_core_s_sampler_and_noise_levels(prompts: Any, caplog: pytest.LogCaptureFixture) -> None:
    prompts.run(with_lora_before(prompts, guider_prompt(), "5", model=["2", 0]), capture={"video": ("9", 0)})
    told = told_in(caplog)
    assert any("guidance_scale is 4" in line for line in told) and any("solver is dpmpp_2m" in line for line in told)
    caplog.clear()
    fitting = with_lora_before(prompts, guider_prompt(sampler="euler"), "5", model=["2", 0], guidance_scale=1.0)
    shifted = {"10": node("ModelSamplingSD3", model=["1", 0], shift=5.0)}
    prompts.run(with_inputs(fitting, "8", model=["10", 0]) | shifted, capture={"video": ("9", 0)})
    assert told_in(caplog) == []


def test_a_queue_says_it_in_the_report_of_each_video(prompts: Any) -> None:
    prompt = recipe_prompt(prompts)
    prompt["7"] = {**prompt["7"], "class_type": "FastVideoQueueSampler"}
    told = [
        note
        for note in prompts.run(with_inputs(prompt, "7", solver="unipc"), capture={"report": ("7", 1)}).captured["report"].notes
        if note.startswith("By its names")
    ]
    assert len(told) == 1 and "solver is unipc" in told[0]


def test_calibrating_says_it_too(prompts: Any, caplog: pytest.LogCaptureFixture) -> None:
    names = ("seed", "guidance_scale", "low_noise_guidance_scale", "boundary", "guidance_mode")
    inputs = {name: SETTINGS[name] for name in names}
    links = {"model": ["2", 0], "positive": ["3", 0], "negative": ["3", 1], "latent": ["4", 0]}
    prompt = recipe_prompt(prompts) | {"8": node("FastVideoCalibrateMagCache", **links, **inputs, steps=6, shift=5.0)}
    del prompt["5"], prompt["6"], prompt["7"]
    run = prompts.run(prompt, capture={"report": ("8", 1), "text": ("8", 2)})
    told = told_in(caplog)
    assert [words in line for words, line in zip(("guidance_scale is 4", "There are 6 steps"), told, strict=True)] == [True] * 2
    assert set(told) <= set(run.captured["report"].notes) and all(line in run.captured["text"] for line in told)


def test_a_cache_stands_aside_in_the_steps_of_a_recipe_and_works_in_more(prompts: Any) -> None:
    cached = node("FastVideoDBCache", model=["2", 0], enabled=True, preset="auto", residuals_on_cpu=False)
    for steps, aside in ((4, True), (8, False)):
        sampler = sampler_prompt(model=["5", 0], steps=steps)["5"]
        run = prompts.run({**recipe_prompt(prompts), "5": cached, "7": sampler}, capture={"report": ("7", 1)})
        (cache,) = run.captured["report"].caches
        assert cache.aside.startswith("by its names the model is one of lightx2v_wan2.1 (") == aside
        assert cache.aside.endswith("A faster attention backend and compiled blocks help instead.") == aside
        assert bool(cache.blocks_asked) != aside


def test_under_core_s_sampler_a_file_s_own_name_tells_it(
    direct: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfy.sd import load_diffusion_model

    caplog.set_level("INFO")
    plain = load_diffusion_model(str(save_wan(direct.model_folder("diffusion_models"), "lightx2v-4steps-T2V", "t2v")))
    node_class = direct.node_classes["FastVideoDBCache"]
    cached = node_class.execute(model=plain, enabled=True, preset={"preset": "auto"}, residuals_on_cpu=False).args[0]
    videos = [run_ksampler(model, steps=4) for model in (plain, cached)]
    assert torch.equal(*videos) and "DBCache stands aside: by its names the model is one of lightx2v_wan2.1" in caplog.text


def test_a_file_s_own_name_is_enough(direct: Any) -> None:
    from comfy.sd import load_diffusion_model

    path = save_wan(direct.model_folder("diffusion_models"), "FastWan2.1-T2V-1.3B", "t2v")
    given = outputs(direct, "auto", load_diffusion_model(str(path)))
    assert given["solver"] == "dmd_float64" and "recognised as fastwan_2.1_1.3b" in given["text"]
    path = save_wan(direct.model_folder("diffusion_models"), "AnyFlow-T2V", "t2v")
    with pytest.raises(RequestError, match="recognised as anyflow, which does not run in ComfyUI: its network reads a second"):
        outputs(direct, "auto", load_diffusion_model(str(path)))


def test_attachments_are_told(direct: Any, load_wan: Any) -> None:
    cache = (
        direct.node_classes["FastVideoDBCache"]
        .execute(model=load_wan(), enabled=True, preset={"preset": "auto"}, residuals_on_cpu=False)
        .args[0]
    )
    assert "a faster attention backend and compiled blocks help instead." in outputs(direct, "lightx2v_wan2.1", cache)["text"]


@pytest.mark.parametrize(
    ("name", "models", "base", "words"),
    [
        (
            "lightx2v_wan2.2",
            1,
            False,
            r"lightx2v_wan2\.2 is of 2 experts: connect the low-noise expert to low_noise_model",
        ),
        ("lightx2v_wan2.1", 2, False, r"Recipe lightx2v_wan2\.1 is of 1 experts: disconnect low_noise_model"),
        ("three_phases_1_3_4", 2, False, "begins with the high-noise expert without its LoRA: connect that model to base_model"),
        ("lightx2v_wan2.2", 2, True, "base_model is connected, and recipe .* has no phase without the LoRA: disconnect it"),
        ("auto", 1, False, "recipe is auto, and nothing tells of a few-step model"),
        ("anyflow", 1, False, "The recipe input got 'anyflow': use one of"),
    ],
)
def test_what_does_not_fit_is_refused(direct: Any, load_wan: Any, name: str, models: int, base: bool, words: str) -> None:
    given = [load_wan("t2v", seed) for seed in range(models)]
    with pytest.raises(RequestError) as caught:
        outputs(direct, name, *given, base=given[0] if base else None)
    assert re.search(words, str(caught.value))


def test_the_help_page_has_every_recipe(comfy: Any) -> None:
    from test_schema import PACK

    page = (PACK / "web" / "docs" / "FastVideoRecipe.md").read_text(encoding="utf-8")
    assert [name for name in RUNNABLE if f"`{name}`" not in page] == []

"""FastVideo Sampler runs a part of a run, and adds or leaves noise, as core's KSampler (Advanced) does."""

from functools import partial
from typing import Any

import pytest
import torch
from caching import cached, plans, put_table
from graphs import sampler_prompt
from sampling import (
    SETTINGS,
    Calls,
    conditions_of,
    latent_of,
    normal,
    relative_error,
    run_guider,
    run_node,
    shifted,
    sigmas_of,
)
from torch import Tensor

from fastvideo_core import RequestError

pytestmark = pytest.mark.usefixtures("direct")

GOES_ON = {"add_noise": "disable"}
LEAVES_NOISE = {"return_with_leftover_noise": "enable"}
SAME = 3e-6


def core(model: Any, kind: str, latent: dict[str, Any], cfg: float = 4.0, **inputs: Any) -> dict[str, Any]:
    """KSampler (Advanced): what the node itself is given, by its names."""
    import nodes

    positive, negative = conditions_of(kind)
    given = {"add_noise": "enable", "start_at_step": 0, "end_at_step": 10000, "return_with_leftover_noise": "disable", **inputs}
    (made,) = nodes.KSamplerAdvanced().sample(
        model=shifted(model, 5.0), noise_seed=3, steps=8, cfg=cfg, sampler_name="euler", scheduler="simple", positive=positive,
        negative=negative, latent_image=latent, **given,
    )  # fmt: skip
    return dict(made)


def ours(host: Any, model: Any, kind: str, latent: dict[str, Any], **inputs: Any) -> dict[str, Any]:
    positive, negative = conditions_of(kind)
    given = {**SETTINGS, "positive": positive, "negative": negative, "latent": latent, **inputs}
    return dict(host.node_classes["FastVideoSampler"].execute(model=model, **given).args[0])


def masked(kind: str) -> dict[str, Any]:
    """A video of which a half is to stay."""
    mask = torch.cat([torch.ones(1, 1, 3, 8, 4), torch.zeros(1, 1, 3, 8, 4)], dim=4)
    return {"samples": normal(50, *latent_of(kind)["samples"].shape), "noise_mask": mask}


@pytest.mark.parametrize("change", [1, 5])
@pytest.mark.parametrize("kind", ["t2v", "i2v", "ti2v", "masked"])
def test_a_chain_equals_a_chain_of_core(comfy: Any, load_wan: Any, kind: str, change: int) -> None:
    kind, latent = ("t2v", masked("t2v")) if kind == "masked" else (kind, latent_of(kind))
    videos = []
    for run in (partial(core, load_wan(kind), kind), partial(ours, comfy, load_wan(kind), kind)):
        middle = run(latent, end_at_step=change, **LEAVES_NOISE)
        videos += [middle["samples"], run(middle, start_at_step=change, **GOES_ON)["samples"]]
    assert relative_error(videos[2], videos[0]) < SAME
    assert relative_error(videos[3], videos[1]) < SAME


@pytest.mark.parametrize("inputs", [
    {"end_at_step": 4}, {"start_at_step": 3}, {"start_at_step": 2, "end_at_step": 5}, {"add_noise": "disable"},
    {"start_at_step": 3, "end_at_step": 6, **LEAVES_NOISE}, {"end_at_step": 8, **LEAVES_NOISE},
], ids=str)  # fmt: skip
def test_every_part_equals_core(comfy: Any, load_wan: Any, inputs: dict[str, Any]) -> None:
    latent = {"samples": normal(51, 1, 16, 3, 8, 8)}
    expected = core(load_wan(), "t2v", latent, **inputs)["samples"]
    assert relative_error(ours(comfy, load_wan(), "t2v", latent, **inputs)["samples"], expected) < SAME


def chain(host: Any, models: tuple[Any, Any], change: int, **inputs: Any) -> tuple[Tensor, list[Any]]:
    """Two of our samplers, each with both experts."""
    first, before = run_node(host, models[0], "t2v", models[1], end_at_step=change, **LEAVES_NOISE, **inputs)
    video, after = run_node(
        host, models[0], "t2v", models[1], latent={"samples": first}, start_at_step=change, **GOES_ON, **inputs
    )  # fmt: skip
    return video, [before, after]


@pytest.mark.parametrize("solver", ["euler", "dmd"])
@pytest.mark.parametrize("change", [2, 4, 6])
def test_two_samplers_with_both_experts_are_one_run(comfy: Any, load_wan: Any, solver: str, change: int) -> None:
    """Wherever the one goes on from the other: before, at or behind the boundary, which is at step 4."""
    models = (load_wan("t2v", 0), load_wan("t2v", 1))
    whole, report = run_node(comfy, *(models[0], "t2v", models[1]), solver=solver)
    video, reports = chain(comfy, models, change, solver=solver)
    assert relative_error(video, whole) < SAME
    steps = {"high_noise": 0, "low_noise": 0}
    for phase in [phase for part in reports for phase in part.phases]:
        steps[phase.expert] += phase.steps
    assert steps == {phase.expert: phase.steps for phase in report.phases}


def test_an_expert_without_a_step_in_a_part_is_not_loaded(comfy: Any, load_wan: Any) -> None:
    high, low = Calls(), Calls()
    models = (high.on(load_wan("t2v", 0)), low.on(load_wan("t2v", 1)))
    part = {"latent": {"samples": normal(52, 1, 16, 3, 8, 8)}, **GOES_ON}
    run_node(comfy, models[0], "t2v", models[1], start_at_step=6, **part)
    assert not high.counts and low.counts["PREPARE_SAMPLING"] == 1
    low.counts.clear()
    run_node(comfy, models[0], "t2v", models[1], end_at_step=2, **part)
    assert not low.counts and high.counts["PREPARE_SAMPLING"] == 1


def test_core_samplers_run_a_part_with_a_guider_of_both_experts(comfy: Any, load_wan: Any) -> None:
    positive, negative = conditions_of("t2v")
    names = ("guidance_scale", "low_noise_guidance_scale", "boundary", "guidance_mode", "gate", "guidance_rescale")
    inputs = {**{name: SETTINGS[name] for name in names}, "positive": positive, "negative": negative}
    models = {"model": load_wan("t2v", 0), "low_noise_model": load_wan("t2v", 1)}
    guider = comfy.node_classes["FastVideoGuider"].execute(**models, **inputs).args[0]
    sigmas = sigmas_of()
    middle = run_guider(guider, "euler", sigmas[:3])
    assert [phase.expert for phase in guider.report.phases] == ["high_noise"]
    video = run_guider(guider, "euler", sigmas[2:], seed=None, latent={"samples": middle})
    assert relative_error(video, run_node(comfy, models["model"], "t2v", models["low_noise_model"])[0]) < SAME


def test_split_sigmas_go_on_without_noise(comfy: Any, load_wan: Any) -> None:
    sigmas = sigmas_of()
    first, report = run_node(comfy, load_wan(), sigmas=sigmas[:5])
    assert any("the latent has the noise of level 0.8333 left" in note for note in report.notes)
    video, report = run_node(comfy, load_wan(), sigmas=sigmas[4:], latent={"samples": first}, **GOES_ON)
    assert relative_error(video, run_node(comfy, load_wan())[0]) < SAME
    assert report.notes == ("no noise was added: the latent was taken to have that of noise level 0.8333",)
    noisier, report = run_node(comfy, load_wan(), sigmas=sigmas[4:], latent={"samples": first})
    assert relative_error(noisier, video) > 0.1
    assert report.notes == ("noise was added to the latent, up to noise level 0.8333",)


def test_a_cache_works_in_each_part_as_under_core(comfy: Any, load_wan: Any) -> None:
    put_table(comfy, load_wan("t2v", 0), load_wan("t2v", 1))
    models = (cached(comfy, load_wan("t2v", 0)), cached(comfy, load_wan("t2v", 1)))
    whole, report = run_node(comfy, models[0], "t2v", models[1])
    video, reports = chain(comfy, models, report.phases[0].steps)
    assert torch.equal(video, whole) or relative_error(video, whole) < SAME
    assert plans(reports[0]) | plans(reports[1]) == plans(report)
    inside, reports = chain(comfy, models, 6)
    assert plans(reports[1]) == {("low_noise", "positive"): "CS", ("low_noise", "negative"): "CS"}
    assert relative_error(inside, whole) < 0.5


@pytest.mark.parametrize(("inputs", "words"), [
    ({"start_at_step": 8}, r"start_at_step is 8 and end_at_step 10000, of 8 steps from 0 to 7: no step is left"),
    ({"start_at_step": 3, "end_at_step": 3}, r"start_at_step is 3 and end_at_step 3.*no step is left"),
    ({"end_at_step": 0}, r"no step is left. Set start_at_step below both, or leave this sampler out"),
    ({"add_noise": "yes"}, r"add_noise input got 'yes': use one of enable, disable"),
    ({"return_with_leftover_noise": None}, r"return_with_leftover_noise input got None"),
])  # fmt: skip
def test_what_cannot_be_is_said(comfy: Any, load_wan: Any, inputs: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        run_node(comfy, load_wan(), **inputs)


def test_a_prompt_from_before_there_were_parts_runs(prompts: Any) -> None:
    prompt = sampler_prompt()
    assert not {"add_noise", "start_at_step"} & set(prompt["5"]["inputs"])
    prompts.reset()
    prompts.run(prompt)

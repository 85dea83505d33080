"""What other nodes put on the MODELs of phases, and into prompts, acts in each phase as in a chain of core's samplers."""

from typing import Any

import pytest
import torch
from caching import attributes
from phase_runs import Given, chained, phases_of, run_phases, with_lora
from sampling import SETTINGS, Calls, conditions_of, core_guider, latent_of, relative_error, run_guider, shifted, sigmas_of
from test_composition import PATCHES
from test_hook_keyframes import keyframed

from fastvideo_core import RequestError

pytestmark = pytest.mark.usefixtures("direct")

PARTS = ((0, 2), (2, 4), (4, 8))
SCALES = (4.0, 2.0, 3.0)
COMPOSING = [name for name in PATCHES if "Cache" not in name]
WIDGETS = {name: SETTINGS[name] for name in (
    "guidance_scale", "low_noise_guidance_scale", "boundary", "guidance_mode", "gate", "guidance_rescale",
)}  # fmt: skip


def given_of(*models: Any) -> tuple[Given, ...]:
    return tuple(zip(models, (0.95, 0.875, 0.0), SCALES, strict=True))


def chain_of(*models: Any, **prompts: Any) -> Any:
    return chained(*((model, *part, scale) for model, part, scale in zip(models, PARTS, SCALES, strict=True)), **prompts)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("name", COMPOSING)
def test_a_patch_acts_in_its_phase_alone(comfy: Any, load_wan: Any, name: str, place: int) -> None:
    """Of a network, its patching and another network."""
    high, low = load_wan("t2v", 0), load_wan("t2v", 1)
    models = [high, with_lora(comfy, high), low]
    plain, _ = run_phases(comfy, *given_of(*models))
    models[place] = PATCHES[name](comfy, models[place])
    left = [attributes(model) for model in models]
    ours, _ = run_phases(comfy, *given_of(*models))
    assert relative_error(ours, chain_of(*models)) < 1e-5
    assert relative_error(ours, plain) > 2e-5
    assert [attributes(model) for model in models] == left


ORDERS = {
    "a network, its patching, another": lambda host, a, b: (a, with_lora(host, a), b),
    "a network, a clone of it, another": lambda host, a, b: (a, a.clone(), b),
    "a network, its patching, the network": lambda host, a, b: (a, with_lora(host, a), a),
    "a network, another, the network": lambda host, a, b: (a, b, a),
    "a network, a clone of it, the network": lambda host, a, b: (a, a.clone(), a),
}


@pytest.mark.parametrize("keyframes", [3, 20])
@pytest.mark.parametrize("order", ORDERS)
def test_hooks_of_a_prompt_act_in_all_phases(comfy: Any, load_wan: Any, order: str, keyframes: int) -> None:
    prompts = keyframed(comfy, keyframes)
    models = ORDERS[order](comfy, load_wan("t2v", 0), load_wan("t2v", 1))
    ours, _ = run_phases(comfy, *given_of(*models), **prompts)
    if keyframes == 3:  # with more than steps, core's chain begins with the first one in each sampler
        assert relative_error(ours, chain_of(*models, **prompts)) < 1e-5
    assert relative_error(ours, run_phases(comfy, *given_of(*models))[0]) > 1e-4
    assert torch.equal(run_phases(comfy, *given_of(*models), **prompts)[0], ours)
    assert all(not model.hook_backup and model.hook_patches_backup is None for model in models)


def test_hooks_in_one_network_are_those_of_one_run(comfy: Any, load_wan: Any) -> None:
    prompts, model = keyframed(comfy, 20), load_wan()
    whole, _ = run_phases(comfy, (model, 0.0, 4.0), **prompts)
    for models in ((model, model.clone(), model), (model, model, model), (model, with_lora(comfy, model, 0.0), model.clone())):
        ours, _ = run_phases(
            comfy, *((each, until, 4.0) for each, until in zip(models, (0.95, 0.875, 0.0), strict=True)), **prompts
        )
        assert relative_error(ours, whole) < 1e-6


@pytest.mark.parametrize("sampler", ["heun", "dpm_2", "dpmpp_sde", "uni_pc", "dpmpp_2s_ancestral", "lcm"])
def test_samplers_of_core_may_ask_across_a_boundary(comfy: Any, load_wan: Any, sampler: str) -> None:
    """Of phases of one MODEL and its clones the video is that of one run."""
    model = shifted(load_wan(), 5.0)
    plain = run_guider(core_guider(model), sampler, sigmas_of())
    positive, negative = conditions_of("t2v")
    node = comfy.node_classes["FastVideoGuider"]
    phases = phases_of(comfy, (model, 0.95, 4.0), (model.clone(), 0.8, 4.0), (model, 0.0, 4.0))
    guider = node.execute(phases=phases, positive=positive, negative=negative, **WIDGETS).args[0]
    assert relative_error(run_guider(guider, sampler, sigmas_of()), plain) < 1e-5
    assert [phase.steps for phase in guider.report.phases] == [2, 3, 3]


def test_each_models_wrappers_see_the_run_and_their_own_phases(comfy: Any, load_wan: Any) -> None:
    high, low = load_wan("t2v", 0), load_wan("t2v", 1)
    counted = [Calls() for _ in range(3)]
    models = [calls.on(model) for calls, model in zip(counted, (high, with_lora(comfy, high), low), strict=True)]
    _, report = run_phases(comfy, *given_of(*models), guidance_mode="batched")
    assert [calls.counts["OUTER_SAMPLE"] for calls in counted] == [1, 1, 1]
    assert [calls.counts["SAMPLER_SAMPLE"] for calls in counted] == [1, 1, 1]
    assert [calls.counts["PREDICT_NOISE"] for calls in counted] == [2, 2, 4]
    assert [calls.counts["DIFFUSION_MODEL"] for calls in counted] == [2, 2, 4]
    assert report.moves == 3


def test_weights_are_brought_once_for_each_phase(comfy: Any, load_wan: Any) -> None:
    from comfy import model_management

    a, b = load_wan("t2v", 0), load_wan("t2v", 1)
    lora = with_lora(comfy, a)
    for models, most in (((a, lora, a), 3), ((a, lora, b), 3), ((a, a, b), 2), ((a, a, a), 1)):
        model_management.unload_all_models()
        _, report = run_phases(comfy, *given_of(*models))
        assert report.moves == most and len(report.step_seconds) == 8
        assert all("fastvideo_moves" not in repr(model.callbacks) for model in models)


@pytest.mark.parametrize("place", [1, 2])
def test_a_later_model_on_several_gpus_is_refused(comfy: Any, load_wan: Any, place: int) -> None:
    models = [load_wan("t2v", 0), load_wan("t2v", 0).clone(), load_wan("t2v", 1)]
    models[place] = models[place].clone()
    models[place].set_additional_models("multigpu", [load_wan().clone()])
    with pytest.raises(RequestError, match=r"is spread over several GPUs by a MultiGPU node.*the model of the first phase may"):
        run_phases(comfy, *given_of(*models))


def test_patches_that_settings_undo_are_refused_on_any_phase(comfy: Any, load_wan: Any) -> None:
    for place in range(3):
        models = [load_wan("t2v", 0), load_wan("t2v", 0).clone(), load_wan("t2v", 1)]
        models[place] = PATCHES["RescaleCFG"](comfy, models[place])
        with pytest.raises(RequestError, match=r"guidance_rescale is 0\.5 and a node before the sampler"):
            run_phases(comfy, *given_of(*models), guidance_rescale=0.5)


def test_a_noise_mask_acts_in_all_phases(comfy: Any, load_wan: Any) -> None:
    """What is masked out stays as it was given."""
    latent = latent_of("t2v")
    mask = torch.ones(1, 1, 3, 8, 8)
    mask[..., :4] = 0.0
    given = torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(9))
    high, low = load_wan("t2v", 0), load_wan("t2v", 1)
    ours, _ = run_phases(comfy, *given_of(high, with_lora(comfy, high), low), latent={"samples": given, "noise_mask": mask})
    assert relative_error(ours[..., :4], given[..., :4]) < 1e-5
    assert relative_error(ours[..., 4:], given[..., 4:]) > 0.1

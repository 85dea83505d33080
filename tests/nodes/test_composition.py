"""Patches and wrappers of other packs act under FastVideo Sampler as under core's KSampler, on one expert and on two."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from sampling import Calls, conditions_of, core_node, latent_of, normal, relative_error, run_chain, run_ksampler, run_node
from tiny_wan import save_lora
from torch import Tensor

from fastvideo_core import RequestError

pytestmark = pytest.mark.usefixtures("direct")

Patch = Callable[[Any, Any], Any]
STEPS = 4


def steps_for(patch: str) -> int:
    """A cache skips nothing in its first steps."""
    return 8 if "Cache" in patch else STEPS


def skip_layer_guidance(host: Any, model: Any) -> Any:
    inputs = {"scale": 3.0, "double_layers": "1", "single_layers": "", "start_percent": 0.0, "end_percent": 1.0}
    return core_node(host, "SkipLayerGuidanceDiT", model=model, rescaling_scale=0.5, **inputs)


def lora(host: Any, model: Any) -> Any:
    file = save_lora(host.model_folder("loras"))
    return core_node(host, "LoraLoaderModelOnly", model=model, lora_name=file.name, strength_model=0.8)


def block_replace(_: Any, model: Any) -> Any:
    """As caches and attention guidance of other packs do."""

    def halved(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        out = extra["original_block"](args)
        return {**out, "img": args["img"] + 0.5 * (out["img"] - args["img"])}

    clone = model.clone()
    clone.set_model_patch_replace(halved, "dit", "double_block", 1)
    return clone


def attention_output(_: Any, model: Any) -> Any:
    """As packs that change what self-attention gives."""
    clone = model.clone()
    clone.set_model_attn1_patch(lambda args: 0.9 * args["x"])
    return clone


def attention_override(_: Any, model: Any) -> Any:
    """As per-model attention backends of other packs do; here one whose effect can be seen."""
    clone = model.clone()
    options = clone.model_options["transformer_options"]
    options["optimized_attention_override"] = lambda function, *args, **kwargs: 0.9 * function(*args, **kwargs)
    return clone


def scale_override(_: Any, model: Any) -> Any:
    """As core's CFG Override: another guidance scale in a range of noise levels, 1 in another."""
    from comfy.patcher_extension import WrappersMP

    def wrapper(executor: Any, x: Tensor, timestep: Tensor, *args: Any) -> Tensor:
        guider, sigma = executor.class_obj, float(timestep[0])
        own, guider.cfg = guider.cfg, 1.0 if sigma > 0.9 else 6.0 if sigma < 0.7 else guider.cfg
        try:
            return executor(x, timestep, *args)
        finally:
            guider.cfg = own

    clone = model.clone()
    clone.add_wrapper(WrappersMP.PREDICT_NOISE, wrapper)
    return clone


def after_guidance(_: Any, model: Any) -> Any:
    """As perturbed-attention guidance of other packs: a pass of its own after the branches are joined."""
    from comfy.samplers import calc_cond_batch

    def fn(args: dict[str, Any]) -> Tensor:
        (weak,) = calc_cond_batch(args["model"], [args["cond"]], 0.9 * args["input"], args["sigma"], args["model_options"])
        return args["denoised"] + 0.5 * (args["cond_denoised"] - weak)

    clone = model.clone()
    clone.set_model_sampler_post_cfg_function(fn)
    return clone


def condition_function(_: Any, model: Any) -> Any:
    """A pack that takes over core's calc_cond_batch."""
    from comfy.samplers import calc_cond_batch

    def fn(args: dict[str, Any]) -> list[Tensor]:
        outputs = calc_cond_batch(args["model"], args["conds"], args["input"], args["sigma"], args["model_options"])
        return [0.95 * output for output in outputs]

    clone = model.clone()
    clone.set_model_sampler_calc_cond_batch_function(fn)
    return clone


def context_windows(host: Any, model: Any, freenoise: bool = False) -> Any:
    return core_node(
        host, "WanContextWindowsManual", model=model, context_length=17, context_overlap=8, context_schedule="standard_static",
        context_stride=1, closed_loop=False, fuse_method="pyramid", freenoise=freenoise,
    )  # fmt: skip


def cache(host: Any, model: Any, name: str) -> Any:
    inputs = {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
    return core_node(host, name, model=model, **inputs)


def core_patch(name: str, **inputs: Any) -> Patch:
    return lambda host, model: core_node(host, name, model=model, **inputs)


nag = core_patch("NAGuidance", nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5)
PATCHES: dict[str, Patch] = {
    "SkipLayerGuidanceDiT": skip_layer_guidance,
    "RescaleCFG": core_patch("RescaleCFG", multiplier=0.7),
    "CFGZeroStar": core_patch("CFGZeroStar"),
    "CFGNorm": core_patch("CFGNorm", strength=0.9),
    "TCFG": core_patch("TCFG"),
    "Mahiro": core_patch("Mahiro"),
    "LoraLoaderModelOnly": lora,
    "EasyCache": partial(cache, name="EasyCache"),
    "LazyCache": partial(cache, name="LazyCache"),
    "block replace": block_replace,
    "attention output": attention_output,
    "attention override": attention_override,
    "guidance scale override": scale_override,
    "pass after guidance": after_guidance,
    "calc_cond_batch function": condition_function,
}


@pytest.mark.parametrize("name", PATCHES)
def test_patch_on_one_expert(comfy: Any, load_wan: Any, name: str) -> None:
    patched, steps = PATCHES[name](comfy, load_wan()), steps_for(name)
    ours, _ = run_node(comfy, patched, steps=steps)
    assert relative_error(ours, run_ksampler(patched, steps=steps)) < 1e-5
    assert relative_error(ours, run_node(comfy, load_wan(), steps=steps)[0]) > 1e-4


@pytest.mark.parametrize("on", [(True, True), (True, False), (False, True)], ids=["both", "high noise", "low noise"])
@pytest.mark.parametrize("name", PATCHES)
def test_patch_on_two_experts(comfy: Any, load_wan: Any, name: str, on: tuple[bool, bool]) -> None:
    """Each MODEL's patches act in its own steps, as in two chained samplers."""
    experts = [load_wan("t2v", seed) for seed in (0, 1)]
    high, low = (PATCHES[name](comfy, expert) if patch else expert for expert, patch in zip(experts, on, strict=True))
    steps = steps_for(name)
    ours, report = run_node(comfy, high, "t2v", low, steps=steps)
    assert relative_error(ours, run_chain(high, low, "t2v", report.phases[0].steps, steps)) < 1e-5
    assert relative_error(ours, run_node(comfy, experts[0], "t2v", experts[1], steps=steps)[0]) > 1e-4


def test_patch_acts_without_guidance(comfy: Any, load_wan: Any) -> None:
    """At guidance scale 1 core hands patches a zero in the place of the negative branch."""
    patched = after_guidance(comfy, core_node(comfy, "RescaleCFG", model=load_wan(), multiplier=0.7))
    ours, _ = run_node(comfy, patched, steps=STEPS, guidance_scale=1.0)
    assert relative_error(ours, run_ksampler(patched, steps=STEPS, cfg=1.0)) < 1e-5


def test_passes_of_patches_are_reported_apart(comfy: Any, load_wan: Any) -> None:
    _, report = run_node(comfy, skip_layer_guidance(comfy, load_wan()), steps=STEPS)
    assert report.phases[0].calls == {"2": STEPS}
    assert report.notes == (f"patches of other packs added {STEPS} passes of their own",)


def test_calls_that_a_cache_skips_are_not_reported(comfy: Any, load_wan: Any) -> None:
    calls = Calls()
    cached = cache(comfy, load_wan(), "EasyCache")
    _, report = run_node(comfy, calls.on(cached, "DIFFUSION_MODEL"), steps=8)
    assert report.phases[0].calls == {"2": len(calls.branches)}
    assert 0 < len(calls.branches) < 8


def test_overridden_scale_of_1_runs_one_branch(comfy: Any, load_wan: Any) -> None:
    calls = Calls()
    _, report = run_node(comfy, scale_override(comfy, calls.on(load_wan(), "DIFFUSION_MODEL")), steps=STEPS)
    assert report.phases[0].calls == {"1": calls.branches.count(1), "2": calls.branches.count(2)}
    assert calls.branches.count(1) > 0


@pytest.mark.parametrize("mode", ["auto", "sequential"])
@pytest.mark.parametrize("kind", ["t2v", "i2v"])
def test_context_windows(comfy: Any, load_wan: Any, kind: str, mode: str) -> None:
    positive, negative = conditions_of(kind, frames=7)
    long = {"positive": positive, "negative": negative, "latent": latent_of(kind, frames=7), "steps": 4}
    model = context_windows(comfy, load_wan(kind))
    ours, _ = run_node(comfy, model, kind, guidance_mode=mode, **long)
    assert relative_error(ours, run_ksampler(model, kind, **long)) < 1e-5
    assert relative_error(ours, run_node(comfy, load_wan(kind), kind, **long)[0]) > 1e-4


def test_noise_that_a_patch_shuffles_is_shuffled_once(comfy: Any, load_wan: Any) -> None:
    """FreeNoise on both experts: the second one of a chain gets no noise."""
    experts = [context_windows(comfy, load_wan("t2v", seed), freenoise=True) for seed in (0, 1)]
    latent = latent_of("t2v", frames=7)
    ours, report = run_node(comfy, experts[0], "t2v", experts[1], latent=latent, steps=4)
    assert relative_error(ours, run_chain(*experts, "t2v", report.phases[0].steps, 4, latent=latent)) < 1e-5


def test_differential_diffusion(comfy: Any, load_wan: Any) -> None:
    mask = torch.linspace(0, 1, 8).expand(1, 1, 3, 8, 8)
    latent = {"samples": normal(42, 1, 16, 3, 8, 8), "noise_mask": mask}
    model = core_node(comfy, "DifferentialDiffusion", model=load_wan(), strength=1.0)
    ours, _ = run_node(comfy, model, latent=latent, steps=STEPS)
    assert relative_error(ours, run_ksampler(model, latent=latent, steps=STEPS)) < 1e-5
    assert relative_error(ours, run_node(comfy, load_wan(), latent=latent, steps=STEPS)[0]) > 1e-4


def test_differential_diffusion_on_one_of_two_experts_is_refused(comfy: Any, load_wan: Any) -> None:
    latent = {**latent_of("t2v"), "noise_mask": torch.ones(1, 1, 3, 8, 8)}
    patched = core_node(comfy, "DifferentialDiffusion", model=load_wan(), strength=1.0)
    with pytest.raises(RequestError, match=r"Only one of the experts has a patch of the noise mask.*Put that node on all models"):
        run_node(comfy, patched, "t2v", load_wan("t2v", 1), latent=latent)


@pytest.mark.parametrize("changes", [{"guidance_rescale": 0.5}, {"gate": 0.5}], ids=["rescale", "gate"])
def test_settings_that_a_patch_would_undo_are_refused(comfy: Any, load_wan: Any, changes: dict[str, float]) -> None:
    (setting,) = changes
    patch = {"guidance_rescale": PATCHES["RescaleCFG"], "gate": nag}[setting]
    with pytest.raises(RequestError, match=f"{setting} is 0.5 and a node before the sampler"):
        run_node(comfy, patch(comfy, load_wan()), **changes)


def test_second_expert_on_several_gpus_is_refused(comfy: Any, load_wan: Any) -> None:
    """It would run on one of them without a word."""
    spread = load_wan("t2v", 1).clone()
    spread.set_additional_models("multigpu", [load_wan("t2v", 1).clone()])
    with pytest.raises(RequestError, match=r"low_noise_model is spread over several GPUs.*Remove that node"):
        run_node(comfy, load_wan(), "t2v", spread)


@pytest.mark.parametrize("what", ["several", "range", "mask", "hook"])
def test_conditioning_of_several_entries(comfy: Any, load_wan: Any, what: str) -> None:
    """Combined prompts, prompts with a range of steps, with a mask, with a LoRA of their own."""
    from comfy.hooks import create_hook_lora
    from comfy.utils import load_torch_file

    weights = load_torch_file(str(save_lora(comfy.model_folder("loras"))))
    extra: dict[str, Any] = {
        "several": {},
        "range": {"start_percent": 0.15, "end_percent": 0.65},
        "mask": {"mask": torch.cat([torch.ones(1, 8, 4), torch.zeros(1, 8, 4)], dim=2), "mask_strength": 1.0},
        "hook": {"hooks": create_hook_lora(weights, 1.0, 0.0)},
    }[what]
    positive, negative = conditions_of("t2v")
    positive = [*positive, [normal(43, 1, 512, 32), {"pooled_output": None, **extra}]]
    prompts = {"positive": positive, "negative": negative}
    ours, _ = run_node(comfy, load_wan(), steps=STEPS, **prompts)
    assert relative_error(ours, run_ksampler(load_wan(), steps=STEPS, **prompts)) < 1e-5
    both, report = run_node(comfy, load_wan(), "t2v", load_wan("t2v", 1), steps=STEPS, **prompts)
    chain = run_chain(load_wan(), load_wan("t2v", 1), "t2v", report.phases[0].steps, STEPS, **prompts)
    assert relative_error(both, chain) < 1e-5


def test_wrappers_of_one_expert_run_as_often_as_under_ksampler(comfy: Any, load_wan: Any) -> None:
    ours, core = Calls(), Calls()
    run_node(comfy, ours.on(load_wan()), steps=STEPS)
    run_ksampler(core.on(load_wan()), steps=STEPS)
    assert ours.counts == core.counts
    assert ours.counts["DIFFUSION_MODEL"] == STEPS and ours.counts["OUTER_SAMPLE"] == 1


def test_wrappers_of_two_experts_run_as_often_as_in_a_chain(comfy: Any, load_wan: Any) -> None:
    ours, core = (Calls(), Calls()), (Calls(), Calls())
    models = [load_wan("t2v", seed) for seed in (0, 1)]
    _, report = run_node(comfy, ours[0].on(models[0]), "t2v", ours[1].on(models[1]), steps=STEPS)
    run_chain(core[0].on(models[0]), core[1].on(models[1]), "t2v", report.phases[0].steps, STEPS)
    assert [calls.counts for calls in ours] == [calls.counts for calls in core]

"""FastVideo Sampler against core's KSampler on the same tiny networks, and what it says about itself."""

from typing import Any

import pytest
import torch
from sampling import (
    SETTINGS,
    Calls,
    conditions_of,
    core_sampler,
    latent_of,
    normal,
    relative_error,
    run_chain,
    run_ksampler,
    run_node,
    sigmas_of,
)

from fastvideo_core import guide

pytestmark = pytest.mark.usefixtures("direct")

KINDS = ["t2v", "i2v", "i2v_clip", "flf2v", "ti2v"]


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_expert_equals_ksampler(comfy: Any, load_wan: Any, kind: str, solver: str) -> None:
    ours, _ = run_node(comfy, load_wan(kind), kind, solver=solver)
    assert relative_error(ours, run_ksampler(load_wan(kind), kind, solver)) < 1e-5


def test_guidance_changes_the_video(comfy: Any, load_wan: Any) -> None:
    """Otherwise the equalities above would say little."""
    guided, _ = run_node(comfy, load_wan())
    plain, _ = run_node(comfy, load_wan(), guidance_scale=1.0)
    assert relative_error(plain, guided) > 1e-2


def test_a_given_first_frame_is_in_the_result(comfy: Any, load_wan: Any) -> None:
    ours, _ = run_node(comfy, load_wan("ti2v"), "ti2v", solver="unipc")
    assert relative_error(ours[:, :, :1], latent_of("ti2v")["samples"][:, :, :1]) < 1e-6


def test_batch_of_videos_equals_ksampler(comfy: Any, load_wan: Any) -> None:
    latent = {"samples": torch.zeros(2, 16, 2, 8, 8)}
    ours, report = run_node(comfy, load_wan(), latent=latent)
    assert relative_error(ours, run_ksampler(load_wan(), latent=latent)) < 1e-5
    assert report.phases[0].calls == {"2": 8}


def test_video_to_video_from_given_sigmas_equals_core(comfy: Any, load_wan: Any) -> None:
    """A latent that is not empty, and SIGMAS that start below 1."""
    from comfy_extras.nodes_custom_sampler import SamplerCustom

    latent, sigmas = {"samples": normal(30, 1, 16, 3, 8, 8)}, sigmas_of(10)[4:]
    ours, report = run_node(comfy, load_wan(), latent=latent, sigmas=sigmas, steps=20)
    positive, negative = conditions_of("t2v")
    core = SamplerCustom.execute(load_wan(), True, 3, 4.0, positive, negative, core_sampler("euler"), sigmas, latent).args[0]
    assert relative_error(ours, core["samples"]) < 1e-5
    assert report.sigmas == tuple(sigmas.tolist())


@pytest.mark.parametrize(
    ("mode", "branches", "ran"),
    [("auto", [2] * 8, "batched"), ("batched", [2] * 8, "batched"), ("sequential", [1] * 16, "sequential")],
)
def test_guidance_mode_decides_the_calls(comfy: Any, load_wan: Any, mode: str, branches: list[int], ran: str) -> None:
    calls = Calls()
    ours, report = run_node(comfy, calls.on(load_wan(), "DIFFUSION_MODEL"), guidance_mode=mode)
    assert calls.branches == branches
    assert report.phases[0].calls == {str(branches[0]): len(branches)}
    assert report.guidance_mode == ran
    assert relative_error(ours, run_ksampler(load_wan())) < 1e-5


def test_guidance_scale_1_runs_the_positive_branch_only(comfy: Any, load_wan: Any) -> None:
    calls = Calls()
    ours, report = run_node(comfy, calls.on(load_wan(), "DIFFUSION_MODEL"), guidance_scale=1.0)
    assert calls.branches == [1] * 8
    assert (report.phases[0].calls, report.guidance_mode) == ({"1": 8}, "off")
    assert relative_error(ours, run_ksampler(load_wan(), cfg=1.0)) < 1e-5


def test_gate_runs_the_negative_branch_in_the_first_steps_only(comfy: Any, load_wan: Any) -> None:
    calls = Calls()
    gated, report = run_node(comfy, calls.on(load_wan(), "DIFFUSION_MODEL"), gate=0.5)
    assert calls.branches == [2, 2, 2, 2, 1, 1, 1, 1]
    assert (report.phases[0].calls, report.phases[0].reused_negative) == ({"1": 4, "2": 4}, 4)
    exact, _ = run_node(comfy, load_wan())
    unguided, _ = run_node(comfy, load_wan(), guidance_scale=1.0)
    assert 0 < relative_error(gated, exact) < relative_error(unguided, exact)


def test_rescale_is_the_formula_on_velocities(comfy: Any, load_wan: Any) -> None:
    """Against the formula, applied by a cfg function of core's kind on the same model."""
    patched = load_wan().clone()
    patched.set_model_sampler_cfg_function(lambda a: guide(a["cond"], a["uncond"], a["cond_scale"], 0.7))
    ours, _ = run_node(comfy, load_wan(), guidance_rescale=0.7)
    assert relative_error(ours, run_ksampler(patched)) < 1e-5
    assert relative_error(ours, run_node(comfy, load_wan())[0]) > 1e-4


@pytest.mark.parametrize("kind", ["t2v", "i2v"])
def test_two_experts_equal_two_chained_ksamplers(comfy: Any, load_wan: Any, kind: str) -> None:
    high, low = load_wan(kind, 0), load_wan(kind, 1)
    ours, report = run_node(comfy, high, kind, low)
    first = report.phases[0].steps
    assert [(phase.expert, phase.steps) for phase in report.phases] == [("high_noise", first), ("low_noise", 8 - first)]
    assert relative_error(ours, run_chain(high, low, kind, first)) < 1e-5
    assert relative_error(ours, run_node(comfy, high, kind)[0]) > 1e-2


def test_every_branch_of_two_experts_is_counted(comfy: Any, load_wan: Any) -> None:
    high, low = Calls(), Calls()
    models = high.on(load_wan("t2v", 0), "DIFFUSION_MODEL"), low.on(load_wan("t2v", 1), "DIFFUSION_MODEL")
    _, report = run_node(comfy, models[0], "t2v", models[1], low_noise_guidance_scale=1.0)
    assert [phase.calls for phase in report.phases] == [{"2": len(high.branches)}, {"1": len(low.branches)}]
    assert (set(high.branches), set(low.branches)) == ({2}, {1})
    assert len(high.branches) + len(low.branches) == 8


def test_each_expert_has_its_own_gate_difference(comfy: Any, load_wan: Any) -> None:
    _, report = run_node(comfy, load_wan("t2v", 0), "t2v", load_wan("t2v", 1), gate=0.0)
    assert [phase.calls for phase in report.phases] == [
        {"1": report.phases[0].steps - 1, "2": 1},
        {"1": report.phases[1].steps - 1, "2": 1},
    ]


def test_one_network_patched_in_two_ways_is_two_experts(comfy: Any, load_wan: Any) -> None:
    """Two clones of one MODEL with different weight patches, as two LoRAs on one file are."""
    patched = load_wan().clone()
    patched.add_patches({"diffusion_model.blocks.0.ffn.0.weight": (normal(31, 128, 64) * 0.05,)})
    ours, report = run_node(comfy, load_wan(), "t2v", patched)
    assert relative_error(ours, run_chain(load_wan(), patched, "t2v", report.phases[0].steps)) < 1e-5
    again, _ = run_node(comfy, load_wan(), "t2v", patched)
    assert torch.equal(ours, again)


@pytest.mark.parametrize("solver", ["euler", "unipc", "dpmpp_2m", "dmd"])
def test_second_run_is_bit_equal(comfy: Any, load_wan: Any, solver: str) -> None:
    experts = load_wan("t2v", 0), load_wan("t2v", 1)
    first, _ = run_node(comfy, experts[0], "t2v", experts[1], solver=solver, gate=0.5)
    second, _ = run_node(comfy, experts[0], "t2v", experts[1], solver=solver, gate=0.5)
    assert torch.equal(first, second)


def test_running_leaves_the_models_as_they_were(comfy: Any, load_wan: Any) -> None:
    experts = [load_wan("t2v", 0), load_wan("t2v", 1)]
    before = [_state(model) for model in experts]
    run_node(comfy, experts[0], "t2v", experts[1])
    for model, (options, patches, wrappers, weights) in zip(experts, before, strict=True):
        now = _state(model)
        assert (now[0], now[1], now[2]) == (options, patches, wrappers)
        assert all(torch.equal(now[3][key], value) for key, value in weights.items())


def _state(model: Any) -> tuple[Any, Any, Any, dict[str, torch.Tensor]]:
    from comfy.model_patcher import create_model_options_clone

    weights = {key: value.clone() for key, value in model.model.state_dict().items() if key.startswith("diffusion_model")}
    return create_model_options_clone(model.model_options), dict(model.object_patches), dict(model.wrappers), weights


def test_latent_keeps_its_other_entries(comfy: Any, load_wan: Any) -> None:
    latent = {**latent_of("t2v"), "batch_index": [5], "downscale_ratio_spacial": 8, "note": "kept"}
    positive, negative = conditions_of("t2v")
    output = comfy.node_classes["FastVideoSampler"].execute(
        model=load_wan(), positive=positive, negative=negative, latent=latent, **{**SETTINGS, "steps": 2}
    )
    assert set(output.args[0]) == {"samples", "batch_index", "note"}

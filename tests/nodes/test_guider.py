"""FastVideo Guider in core's SamplerCustomAdvanced, with core's own samplers and noise levels."""

import logging
from typing import Any

import pytest
import torch
from sampling import Calls, conditions_of, core_guider, latent_of, relative_error, run_chain, run_guider, shifted, sigmas_of
from torch import Tensor

pytestmark = [
    pytest.mark.usefixtures("direct"),
    pytest.mark.filterwarnings("ignore:::(torchsde|comfy.k_diffusion)"),  # core's own samplers
]

SETTINGS: dict[str, Any] = {
    "guidance_scale": 4.0, "low_noise_guidance_scale": 3.0, "boundary": 0.875, "guidance_mode": "auto", "gate": 1.0,
    "guidance_rescale": 0.0,
}  # fmt: skip
SMALL = {"samples": torch.zeros(1, 16, 1, 4, 4)}


def guider_of(host: Any, model: Any, low_noise_model: Any = None, kind: str = "t2v", **changes: Any) -> Any:
    positive, negative = conditions_of(kind)
    inputs = {**SETTINGS, "positive": positive, "negative": negative, **changes}
    second = {} if low_noise_model is None else {"low_noise_model": low_noise_model}
    return host.node_classes["FastVideoGuider"].execute(model=model, **second, **inputs).args[0]


SAMPLERS = [
    "euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp", "heun", "heunpp2", "dpm_2", "dpm_2_ancestral",
    "lms", "dpm_fast", "dpm_adaptive", "dpmpp_2s_ancestral", "dpmpp_2s_ancestral_cfg_pp", "dpmpp_sde", "dpmpp_2m",
    "dpmpp_2m_cfg_pp", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde", "ddpm", "lcm", "ipndm", "ipndm_v", "deis",
    "res_multistep", "res_multistep_cfg_pp", "res_multistep_ancestral", "gradient_estimation", "gradient_estimation_cfg_pp",
    "er_sde", "seeds_2", "seeds_3", "sa_solver", "sa_solver_pece", "ddim", "uni_pc", "uni_pc_bh2",
]  # fmt: skip


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_core_sampler_gives_what_core_guider_gives(comfy: Any, load_wan: Any, sampler: str) -> None:
    model, sigmas = shifted(load_wan(), 5.0), sigmas_of(5)
    ours = run_guider(guider_of(comfy, model), sampler, sigmas, latent=SMALL)
    tolerance = 1e-4 if sampler == "dpm_adaptive" else 1e-5  # it chooses its steps by differences of nearly equal values
    assert relative_error(ours, run_guider(core_guider(model), sampler, sigmas, latent=SMALL)) < tolerance


@pytest.mark.parametrize(
    "scheduler", ["simple", "normal", "karras", "exponential", "sgm_uniform", "ddim_uniform", "beta", "kl_optimal"]
)
def test_noise_levels_of_core_schedulers_are_taken(comfy: Any, load_wan: Any, scheduler: str) -> None:
    from comfy.samplers import calculate_sigmas

    model = shifted(load_wan(), 5.0)
    sigmas = calculate_sigmas(model.get_model_object("model_sampling"), scheduler, 6)
    ours = run_guider(guider_of(comfy, model), "euler", sigmas, latent=SMALL)
    assert relative_error(ours, run_guider(core_guider(model), "euler", sigmas, latent=SMALL)) < 1e-5


@pytest.mark.parametrize("kind", ["i2v", "ti2v"])
def test_conditions_and_masks_reach_the_model(comfy: Any, load_wan: Any, kind: str) -> None:
    model = shifted(load_wan(kind), 5.0)
    ours = run_guider(guider_of(comfy, model, kind=kind), "dpmpp_2m", sigmas_of(4), kind)
    assert relative_error(ours, run_guider(core_guider(model, kind), "dpmpp_2m", sigmas_of(4), kind)) < 1e-5


def test_two_experts_equal_two_chained_ksamplers(comfy: Any, load_wan: Any) -> None:
    experts = [load_wan("t2v", seed) for seed in (0, 1)]
    guider = guider_of(comfy, *(shifted(expert, 5.0) for expert in experts))
    ours = run_guider(guider, "euler", sigmas_of(8))
    assert relative_error(ours, run_chain(*experts, "t2v", guider.report.phases[0].steps)) < 1e-5


@pytest.mark.parametrize("sampler", ["dpm_2", "euler_cfg_pp"])
def test_samplers_without_history_equal_a_chain_of_core_guiders(comfy: Any, load_wan: Any, sampler: str) -> None:
    """dpm_2 also asks between two levels; euler_cfg_pp reads the negative branch through a patch that it adds to the model."""
    experts = [shifted(load_wan("t2v", seed), 5.0) for seed in (0, 1)]
    guider = guider_of(comfy, *experts, guidance_scale=1.5, low_noise_guidance_scale=1.0)
    ours = run_guider(guider, sampler, sigmas_of(8))
    first = guider.report.phases[0].steps
    middle = run_guider(core_guider(experts[0], cfg=1.5), sampler, sigmas_of(8)[: first + 1])
    rest = run_guider(core_guider(experts[1], cfg=1.0), sampler, sigmas_of(8)[first:], seed=None, latent={"samples": middle})
    assert relative_error(ours, rest) < 1e-5


@pytest.mark.parametrize("sampler", ["heun", "dpm_2", "dpmpp_2s_ancestral", "dpmpp_sde", "seeds_2"])
def test_each_evaluation_is_of_the_expert_of_its_step(comfy: Any, load_wan: Any, sampler: str) -> None:
    """These samplers evaluate twice per step; what lies between two levels belongs to the step that it is in."""
    asked: dict[str, list[float]] = {"high": [], "low": []}
    models = [_recording(shifted(load_wan("t2v", seed), 5.0), asked[name]) for seed, name in enumerate(asked)]
    guider = guider_of(comfy, *models)
    run_guider(guider, sampler, sigmas_of(8), latent=SMALL)
    switch = guider.report.phases[1].first_sigma * (1 + 1e-5)
    assert min(asked["high"]) > switch >= max(asked["low"])
    assert [sum(phase.calls.values()) for phase in guider.report.phases] == [len(asked["high"]), len(asked["low"])]


def _recording(model: Any, sigmas: list[float]) -> Any:
    from comfy.patcher_extension import WrappersMP

    def wrapper(executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        sigmas.append(float(timestep[0]) / 1000)
        return executor(x, timestep, *args, **kwargs)

    clone = model.clone()
    clone.add_wrapper(WrappersMP.DIFFUSION_MODEL, wrapper)
    return clone


@pytest.mark.parametrize("seeds", [(0, 1), (0, 0)], ids=["two networks", "two patchings of one network"])
def test_sampler_that_goes_back_over_the_boundary(comfy: Any, load_wan: Any, seeds: tuple[int, int]) -> None:
    from comfy.samplers import KSAMPLER
    from sampling import normal

    experts = [shifted(load_wan("t2v", seed), 5.0).clone() for seed in seeds]
    experts[1].add_patches({"diffusion_model.blocks.0.ffn.0.weight": (normal(31, 128, 64) * 0.05,)})
    levels = [0.95, 0.5, 0.93, 0.4, 0.91]

    def visits(
        model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None
    ) -> Tensor:
        return torch.cat([model(x, x.new_tensor([sigma]), **extra_args) for sigma in levels], dim=2)

    sampler = KSAMPLER(visits)
    ours = run_guider(guider_of(comfy, *experts), sampler, sigmas_of(8))
    singles = [
        run_guider(core_guider(expert, cfg=cfg), sampler, sigmas_of(8)) for expert, cfg in zip(experts, (4.0, 3.0), strict=True)
    ]
    by_level = zip(*(single.chunk(5, dim=2) for single in singles), strict=True)
    expected = torch.cat([low if sigma < 0.875 else high for sigma, (high, low) in zip(levels, by_level, strict=True)], dim=2)
    assert relative_error(ours, expected) < 1e-5


def test_gate_and_modes_hold_in_core_samplers(comfy: Any, load_wan: Any) -> None:
    calls = Calls()
    model = calls.on(shifted(load_wan(), 5.0), "DIFFUSION_MODEL")
    run_guider(guider_of(comfy, model, gate=0.25, guidance_mode="sequential"), "dpmpp_2m", sigmas_of(8))
    assert calls.branches == [1] * (2 * 2 + 6)


def test_a_guider_is_used_again_with_equal_results(comfy: Any, load_wan: Any) -> None:
    """ComfyUI keeps the guider object between prompts."""
    guider = guider_of(comfy, load_wan("t2v", 0), load_wan("t2v", 1), gate=0.5)
    first = run_guider(guider, "uni_pc", sigmas_of(8), latent=SMALL)
    run_guider(guider, "heun", sigmas_of(8), latent=latent_of("t2v", frames=2, side=2), seed=8)
    assert torch.equal(first, run_guider(guider, "uni_pc", sigmas_of(8), latent=SMALL))


def test_report_is_logged_once_per_run(comfy: Any, load_wan: Any, caplog: pytest.LogCaptureFixture) -> None:
    guider = guider_of(comfy, load_wan())
    with caplog.at_level(logging.INFO):
        run_guider(guider, "res_multistep", sigmas_of(4), latent=SMALL)
    logged = [record.getMessage() for record in caplog.records if "4 steps res_multistep" in record.getMessage()]
    assert logged == [guider.report.text()]
    assert "4 x 2 branches" in logged[0]
    assert len(guider.report.step_seconds) == 4

"""The sampler node: the engine's loop inside core's sampling, so that everything attached to the MODEL acts as usual."""

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy_api.latest import io
from torch import Tensor
from tqdm.auto import tqdm

from fastvideo_core import (
    GuidanceMode,
    GuidanceSettings,
    RunReport,
    SamplingRequest,
    SolverName,
    Step,
    denoise,
    make_solver,
)

from .checked import checked
from .guider import WanGuider
from .native_run import GuiderSettings
from .sampler_part import WHOLE, SamplerPart, part_inputs
from .sockets import CATEGORY, NOT_CONNECTED, RunReportSocket, connected, guidance_inputs
from .wan_model import check_latent, wan_facts


@dataclass(frozen=True)
class EngineLoop:
    """The engine's loop in the shape of a k-diffusion sampler function, which core's KSAMPLER calls."""

    guider: WanGuider
    request: SamplingRequest
    start: int  # of its first step in the whole run

    @property
    def __name__(self) -> str:
        """What core's log and the report call it."""
        return self.request.solver

    def __call__(self, model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, disable: bool) -> Tensor:
        """x: noisy latents (B, C, T, H, W). Returns the clean latents."""
        run = self.guider.run
        solver = make_solver(self.request.solver, run.schedule.sigmas, self.request.seed, self.start)
        ones = x.new_ones(x.shape[0])

        def velocity(latents: Tensor, sigma: float) -> Tensor:
            run.exact_sigma = sigma
            return (latents - model(latents, sigma * ones, **extra_args)) / sigma

        with tqdm(total=run.schedule.steps, disable=disable) as bar:
            for phase in run.schedule.phases:
                for step in denoise(velocity, x, solver, run.schedule, phase):
                    x = step.latents
                    _tell(step, callback)
                    bar.update()
        return x


def _tell(step: Step, callback: Any) -> None:
    """Progress, preview and interrupt: core's callback raises when the run was interrupted."""
    sigma = step.schedule.sigmas[step.index]
    callback({"i": step.index, "x": step.latents, "denoised": step.denoised, "sigma": sigma, "sigma_hat": sigma})


class FastVideoSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoSampler",
            display_name="FastVideo Sampler",
            category=CATEGORY,
            description="Samples a Wan video, with one expert or two, and reports what ran.",
            search_aliases=["ksampler", "wan sampler", "moe ksampler", "wan 2.2 high low noise"],
            inputs=[
                io.Model.Input("model", tooltip="Wan diffusion model; the high-noise expert where there are two."),
                io.Model.Input("low_noise_model", optional=True, tooltip="Low-noise expert of Wan 2.2 T2V/I2V A14B."),
                io.Conditioning.Input("positive", tooltip="What the video shows."),
                io.Conditioning.Input("negative", tooltip="What it must not show; only read where the guidance scale is not 1."),
                io.Latent.Input("latent", tooltip="Size of the video, and for TI2V 5B the given first frame with its mask."),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**64 - 1, control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="The same seed and settings give the same video.",
                ),
                io.Int.Input(
                    "steps", default=20, min=1, max=1000, tooltip="Denoising steps: 20 to 50; 4 to 8 for distilled models.",
                ),
                io.Float.Input(
                    "shift", default=5.0, min=0.01, max=100.0, step=0.1,
                    tooltip="Moves the noise levels towards noise, in the place of a ModelSamplingSD3 node. Wan 2.1: 1.3B 8, "
                    "14B 5, I2V 480P 3; Wan 2.2: T2V 12, others 5.",
                ),
                io.Combo.Input(
                    "solver", options=["unipc", "euler", "dpmpp_2m", "dmd"], default="unipc",
                    tooltip="unipc is what Wan's authors use. dmd is for few-step distilled checkpoints such as FastWan.",
                ),
                *guidance_inputs(),
                io.Sigmas.Input(
                    "sigmas", optional=True, tooltip="Noise levels to use instead of those that steps and shift give.",
                ),
                *part_inputs(),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The video's latents, for VAE Decode."),
                RunReportSocket.Output(display_name="report", tooltip="What ran, for FastVideo Run Report."),
            ],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls, model: Any, positive: Any, negative: Any, latent: dict[str, Any], seed: int, steps: int, shift: float,
        solver: SolverName, guidance_scale: float, low_noise_guidance_scale: float, boundary: float,
        guidance_mode: GuidanceMode, gate: float, guidance_rescale: float,
        low_noise_model: Any = NOT_CONNECTED, sigmas: Any = NOT_CONNECTED, **part: Any,
    ) -> io.NodeOutput:  # fmt: skip
        low_noise_model = connected(low_noise_model)
        sigmas = connected(sigmas)
        request = SamplingRequest(
            steps=steps if sigmas is None else len(sigmas) - 1,
            shift=shift,
            guidance_scale=guidance_scale,
            low_noise_guidance_scale=None if low_noise_model is None else low_noise_guidance_scale,
            boundary=None if low_noise_model is None else boundary,
            solver=solver,
            seed=seed,
            sigmas=None if sigmas is None else sigmas.tolist(),
            guidance=GuidanceSettings(mode=guidance_mode, gate=gate, rescale=guidance_rescale),
        )
        return io.NodeOutput(*sample(model, low_noise_model, positive, negative, latent, request, SamplerPart(**part)))


def sample(model: Any, low_noise_model: Any | None, positive: Any, negative: Any, latent: dict[str, Any],
           request: SamplingRequest, part: SamplerPart = WHOLE) -> tuple[dict[str, Any], RunReport]:  # fmt: skip
    """One generation on native MODELs, or the part of one. Returns LATENT and the run's report."""
    samples, sigmas = latent.get("samples"), part.levels(request.levels)
    settings = GuiderSettings(
        guidance_scale=request.guidance_scale,
        low_noise_guidance_scale=request.low_noise_guidance_scale,
        boundary=request.boundary,
        guidance=request.guidance,
        shift=None if request.sigmas is not None else request.shift,
        partial=len(sigmas) < len(request.levels),
    )
    experts = [None if expert is None else with_shift(expert, settings.shift) for expert in (model, low_noise_model)]
    check_latent(samples, wan_facts(model))  # before noise is made for it
    noise, levels = part.noise(latent, request.seed), torch.tensor(sigmas, dtype=torch.float32, device="cpu")
    guider = WanGuider(experts[0], experts[1], positive, negative, settings).for_run(noise, levels)
    video = guider.sample(
        noise,
        samples,
        comfy.samplers.KSAMPLER(EngineLoop(guider, request, part.start_at_step)),
        levels,
        denoise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=request.seed,
    )
    kept = {name: value for name, value in latent.items() if not name.startswith("downscale_ratio")}
    return {**kept, "samples": video.to(comfy.model_management.intermediate_device())}, guider.report


def with_shift(model: Any, shift: float | None) -> Any:
    """The MODEL with this shift, so that whatever reads percentages of the schedule (other patches) sees the same one.

    Args:
        shift: None where the MODEL stays as it is.
    """
    if shift is None:
        return model
    clone, before = model.clone(), model.get_model_object("model_sampling")
    sampling = _Shifted(model.model.model_config)
    sampling.set_parameters(shift=shift, multiplier=1000)
    if hasattr(before, "noise_scale"):  # newer cores
        sampling.set_noise_scale(before.noise_scale)
    clone.add_object_patch("model_sampling", sampling)
    return clone


class _Shifted(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
    """Core's noise levels of flow models, as its ModelSamplingSD3 node makes them."""


NODES = [FastVideoSampler]

"""The engine's loop inside core's sampling, so that everything attached to the MODEL acts as usual."""

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor
from tqdm.auto import tqdm

from fastvideo_core import RunReport, SamplingRequest, Step, denoise, make_solver

from .facts import check_latent, wan_facts
from .guider import WanGuider
from .part import WHOLE, SamplerPart
from .run import GuiderSettings


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


def sample(model: Any, low_noise_model: Any | None, positive: Any, negative: Any, latent: dict[str, Any],
           request: SamplingRequest, part: SamplerPart = WHOLE) -> tuple[dict[str, Any], RunReport]:  # fmt: skip
    """One generation on native MODELs, or the part of one. Returns LATENT and the run's report."""
    samples, sigmas = latent.get("samples"), part.levels(request.levels)
    settings = GuiderSettings(
        guidance_scale=request.settings[0].guidance_scale,
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

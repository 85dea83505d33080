"""Guidance per phase, the gate and two experts as a ComfyUI guider, around core's own `CFGGuider`.

The high-noise expert is the guider itself; the low-noise expert is a second one whose run is opened around it, so that the
wrappers of both MODELs see a whole run, and whose weights are loaded when the boundary is passed.
"""

import logging
from dataclasses import replace
from typing import Any

from fastvideo_core import GuidanceSettings, RequestError, RunReport, check_finite, is_one

from .expert import LowNoiseExpert
from .facts import (
    check_conditioning,
    check_experts,
    check_frames,
    check_latent,
    check_one_device,
    condition_notes,
    told_notes,
    wan_facts,
)
from .report import native_report
from .run import GuiderSettings, NativeRun, native_plan
from .taking_part import ExpertGuider


class WanGuider(ExpertGuider):
    """A core GUIDER. `report` is the last finished generation's."""

    run: NativeRun

    def __init__(self, model: Any, low_noise_model: Any | None, positive: Any, negative: Any, settings: GuiderSettings) -> None:
        super().__init__(model)
        self.facts = wan_facts(model)
        self.settings, self.prompts = settings, (positive, negative)
        scales = (settings.guidance_scale, settings.low_noise_guidance_scale)
        guided = not all(scale is None or is_one(scale) for scale in scales)
        branches = {"positive": positive, **({"negative": negative} if guided else {})}
        check_conditioning(branches, self.facts)
        self.notes = (*condition_notes(branches, self.facts), *told_notes(branches))
        _check_patches(settings.guidance, [model] if low_noise_model is None else [model, low_noise_model])
        self.low_noise = None
        if low_noise_model is not None:
            check_experts(self.facts, wan_facts(low_noise_model, "low_noise_model"))
            check_one_device(low_noise_model)
            self.low_noise = LowNoiseExpert(low_noise_model)
            self.low_noise.set_conds(positive, negative)
            self.low_noise.set_cfg(settings.low_noise_guidance_scale)
        self.set_conds(positive, negative)
        self.set_cfg(settings.guidance_scale)

    def for_run(self, noise: Any, sigmas: Any) -> "WanGuider":
        """This guider; where all the noise levels of a part of a run are one expert's, a guider of that one, for the other's
        weights are not needed."""
        if self.low_noise is None:
            return self
        phases = native_plan(self.model_patcher, self.settings, sigmas, bool(noise.any())).phases
        if len(phases) == 2:
            return self
        expert = self.low_noise if phases[0].expert == "low_noise" else self
        settings = replace(self.settings, guidance_scale=expert.cfg, low_noise_guidance_scale=None)
        return WanGuider(expert.model_patcher, None, *self.prompts, settings)

    def sample(self, noise: Any, latent_image: Any, sampler: Any, sigmas: Any, denoise_mask: Any = None,
               callback: Any = None, disable_pbar: bool = False, seed: int | None = None) -> Any:  # fmt: skip
        """Core's signature. Returns the latents (B, C, T, H, W)."""
        guider = self.for_run(noise, sigmas)
        if guider is not self:
            video = guider.sample(noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed)
            self.report: RunReport = guider.report
            return video
        self._check_inputs(latent_image, denoise_mask)
        self.latent_shape = latent_image.shape
        self.run = run = NativeRun(self, self.low_noise, self.settings, sigmas, noise)

        def after_step(step: int, denoised: Any, latents: Any, steps: int) -> None:
            run.stopwatch.lap()
            if callback is not None:
                callback(step, denoised, latents, steps)

        arguments = (noise, latent_image, sampler, sigmas, denoise_mask, after_step, disable_pbar, seed)
        sample = super().sample
        try:
            video = sample(*arguments) if self.low_noise is None else self.low_noise.sample_around(run, sample, *arguments)
        finally:
            del self.run  # it holds latents and conditions of this generation, and this object
        check_finite(video, "The sampler")
        self.report = native_report(self, run, sampler, seed or 0, tuple(video.shape))
        logging.info("%s", self.report.text())
        return video

    def outer_sample(self, *args: Any, **kwargs: Any) -> Any:
        self.run.count_calls_of(self)
        return super().outer_sample(*args, **kwargs)

    def inner_sample(self, noise: Any, latent_image: Any, device: Any, sampler: Any, sigmas: Any, denoise_mask: Any,
                     callback: Any, disable_pbar: bool, seed: int, **kwargs: Any) -> Any:  # fmt: skip
        if self.low_noise is not None:
            self.low_noise.remember(noise, latent_image, device, sigmas, denoise_mask, seed, **kwargs)
        self.run.stopwatch.start()
        return super().inner_sample(
            noise, latent_image, device, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, **kwargs
        )

    def outer_predict_noise(self, x: Any, timestep: Any, model_options: dict[str, Any] = {}, seed: Any = None) -> Any:  # noqa: B006
        """Core's, which runs the PREDICT_NOISE wrappers, of the expert of this noise level."""
        expert, options = self.run.at(timestep, model_options)
        outer = super().outer_predict_noise if expert is self else expert.outer_predict_noise
        return outer(x, timestep, options, seed)

    def predict_noise(self, x: Any, timestep: Any, model_options: dict[str, Any] = {}, seed: Any = None) -> Any:  # noqa: B006
        return self.run.denoised(self, x, timestep, model_options)

    def _check_inputs(self, latent: Any, denoise_mask: Any) -> None:
        check_latent(latent, self.facts)
        check_frames(self.original_conds, latent, self.facts)
        if denoise_mask is None or self.low_noise is None:
            return
        experts = (self, self.low_noise)
        if len({"denoise_mask_function" in expert.model_options for expert in experts}) == 2:
            raise RequestError(
                "Only one of the two experts has a patch of the noise mask, such as Differential Diffusion, and the mask acts on "
                "both. Put that node on both models, or on neither."
            )


def _check_patches(guidance: GuidanceSettings, models: list[Any]) -> None:
    """Settings that a patch of another pack on one of the MODELs would undo, or that would undo the patch."""
    if guidance.rescale > 0 and any("sampler_cfg_function" in model.model_options for model in models):
        raise RequestError(
            f"guidance_rescale is {guidance.rescale:g} and a node before the sampler (such as RescaleCFG) replaces the guidance "
            "formula of the model. Set guidance_rescale to 0 or remove that node."
        )
    if guidance.gate < 1 and any(model.model_options.get("disable_cfg1_optimization") for model in models):
        raise RequestError(
            f"gate is {guidance.gate:g} and a node before the sampler (such as NAGuidance) needs the negative branch in every "
            "step. Set gate to 1 or remove that node."
        )

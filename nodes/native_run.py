"""One generation on native MODELs: the denoiser over ComfyUI's own model calls, for one or two experts.

Everything that other packs attach to a MODEL acts as under core's KSampler, because the calls below are core's own.
"""

from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from fastvideo_core import Branch, CapacityError, Guidance, GuidanceSettings, Prediction, guide, plan

BRANCHES: tuple[Branch, Branch] = ("positive", "negative")  # ComfyUI numbers them 0 and 1
CFG_PATCHES = ("sampler_cfg_function", "sampler_post_cfg_function", "sampler_pre_cfg_function")


@dataclass(frozen=True, kw_only=True)
class GuiderSettings:
    """boundary: None for one expert; the others as in `fastvideo_core.plan` and `GuidanceSettings`."""

    guidance_scale: float
    low_noise_guidance_scale: float
    boundary: float | None
    guidance: GuidanceSettings


class LowNoiseExpert(comfy.samplers.CFGGuider):
    """The second expert: a guider whose run is opened around the first one's, and whose model is loaded when it is needed."""

    def sample_around(
        self, run: Any, noise: Any, latent_image: Any, sampler: Any, sigmas: Any, *args: Any, **kwargs: Any
    ) -> Any:
        self.inner_run = run
        return self.sample(noise, latent_image, sampler, sigmas, *args, **kwargs)

    def outer_sample(self, noise: Any, latent_image: Any, sampler: Any, sigmas: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("latent_shapes", None)
        self.inner_model = None
        self.loaded_models: list[Any] = []
        try:
            return self.inner_run(noise, latent_image, _Wrapped(sampler, self), sigmas, *args, **kwargs)
        finally:
            if self.inner_model is not None:
                self.model_patcher.cleanup()
                comfy.sampler_helpers.cleanup_models(self.conds, self.loaded_models)
                self.inner_model = None

    def remember(
        self, noise: Any, latent_image: Any, device: Any, sigmas: Any, denoise_mask: Any, seed: Any, **kwargs: Any
    ) -> None:
        """What loading will need, once the first expert's run has put it on the device."""
        self.inputs = (noise, latent_image, device, sigmas, denoise_mask, seed, kwargs)

    def load(self, run: "NativeRun") -> None:
        """Loads the weights and prepares the conditioning, as core's outer_sample and inner_sample do for a whole run."""
        noise, latent_image, device, sigmas, denoise_mask, seed, kwargs = self.inputs
        comfy.patcher_extension.add_wrapper_with_key(
            WrappersMP.APPLY_MODEL, "fastvideo_calls", run.count_call, self.model_options, is_model_options=True
        )
        self.inner_model, self.conds, self.loaded_models = comfy.sampler_helpers.prepare_sampling(
            self.model_patcher, noise.shape, self.conds, self.model_options
        )
        comfy.samplers.cast_to_load_options(self.model_options, device=device, dtype=self.model_patcher.model_dtype())
        self.model_patcher.pre_run()
        if latent_image is not None and latent_image.count_nonzero() > 0:
            latent_image = self.inner_model.process_latent_in(latent_image)
        self.conds = comfy.samplers.process_conds(
            self.inner_model, noise, self.conds, device, latent_image, denoise_mask, seed, **kwargs
        )
        self.run_options = comfy.model_patcher.create_model_options_clone(self.model_options)
        self.run_options.setdefault("transformer_options", {})["sample_sigmas"] = sigmas


class _Wrapped(comfy.samplers.Sampler):
    """A sampler inside the SAMPLER_SAMPLE wrappers of the low-noise MODEL; the guider adds those of its own."""

    def __init__(self, sampler: Any, expert: LowNoiseExpert) -> None:
        self.sampler, self.expert = sampler, expert

    def max_denoise(self, model_wrap: Any, sigmas: Any) -> bool:
        return bool(self.sampler.max_denoise(model_wrap, sigmas))

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        wrappers = comfy.patcher_extension.get_all_wrappers(
            WrappersMP.SAMPLER_SAMPLE, self.expert.model_options, is_model_options=True
        )
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self.sampler.sample, self.sampler, wrappers)
        return executor.execute(*args, **kwargs)


@dataclass
class _Moment:
    """Where a prediction stands: what core hands a guider, the expert at work, and the calls made so far."""

    expert: Any
    timestep: Tensor
    sigma: float
    latents: Tensor
    options: dict[str, Any]
    calls: list[tuple[Branch, ...]] = field(default_factory=list)


class NativeRun:
    """State of one generation on native MODELs. Also the denoiser of its guidance."""

    def __init__(self, guider: Any, low_noise: LowNoiseExpert | None, settings: GuiderSettings, sigmas: Tensor) -> None:
        self.guider, self.low_noise, self.settings = guider, low_noise, settings
        self.schedule = plan(sigmas.tolist(), settings.guidance_scale, settings.low_noise_guidance_scale, settings.boundary)
        self.guidance = Guidance(self.schedule, settings.guidance, self._combine)
        self.sigma: float | None = None  # set by the engine's loop, which knows it; otherwise read from the device
        self.extra_calls = 0  # passes that patches of other packs added
        self._active: Any = guider
        self._moment: _Moment | None = None
        self._combining = False  # while patches of other packs join the branches, maybe with passes of their own

    def denoised(self, latents: Tensor, timestep: Tensor, options: dict[str, Any]) -> Tensor:
        """What a core sampler asks for: the clean latents (B, C, T, H, W) seen from noise level `timestep` (B,)."""
        sigma = float(timestep[0]) if self.sigma is None else self.sigma
        phase = self.schedule.phase_of(self.schedule.step_at(sigma))
        expert, options = self._switch(phase.expert == "low_noise", options)
        self._moment = _Moment(expert, timestep, sigma, latents, options)
        self.guidance.every_branch = bool(options.get("disable_cfg1_optimization", False))
        velocity = self.guidance.velocity(self, latents, sigma)
        if not phase.guided and not self.guidance.every_branch and any(options.get(name) for name in CFG_PATCHES):
            velocity = self._host_combine(
                velocity, latents / sigma, phase.guidance_scale
            )  # core hands zeros for a skipped branch
        self._moment = None
        return latents - sigma * velocity

    def predict(self, latents: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Prediction:
        """All `branches` through core's calc_cond_batch, which joins them where conditions and memory allow."""
        moment = self._moment
        assert moment is not None
        moment.calls = []
        conds = [moment.expert.conds[branch] if branch in branches else None for branch in BRANCHES]
        model, options = moment.expert.inner_model, moment.options
        if "sampler_calc_cond_batch_function" in options:
            arguments = {
                "conds": conds,
                "input": latents,
                "sigma": moment.timestep,
                "model": model,
                "model_options": options,
            }
            outputs = options["sampler_calc_cond_batch_function"](arguments)
        else:
            outputs = comfy.samplers.calc_cond_batch(model, conds, latents, moment.timestep, options)
        calls = moment.calls
        if self.settings.guidance.mode == "batched" and len(branches) == 2 and any(len(set(call)) < 2 for call in calls):
            raise CapacityError(self._why_split(moment))
        velocities = [(latents - outputs[BRANCHES.index(branch)]) / sigma for branch in branches]
        return Prediction(velocities, calls)

    def fits_batched(self) -> tuple[bool, str]:
        return True, "ComfyUI joins the branches when 1.5 times the estimated memory is free"

    def count_call(self, executor: Any, x: Tensor, t: Tensor, c_concat: Any, c_crossattn: Any, control: Any,
                   transformer_options: dict[str, Any], **kwargs: Any) -> Any:  # fmt: skip
        """An APPLY_MODEL wrapper: every transformer call is counted where it happens."""
        if self._moment is None or self._combining:
            self.extra_calls += 1
        else:
            self._moment.calls.append(tuple(BRANCHES[i] for i in transformer_options["cond_or_uncond"]))
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    def _switch(self, to_low_noise: bool, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The expert at work and the options of its calls. The only place where an expert's weights move."""
        if self.low_noise is None:
            return self.guider, options
        expert = self.low_noise if to_low_noise else self.guider
        if expert is not self._active:
            if to_low_noise and self.low_noise.inner_model is None:
                self.low_noise.load(self)
            else:  # a sampler went back above the boundary
                comfy.model_management.load_models_gpu([expert.model_patcher])
            self._active = expert
        return expert, (self._low_noise_options(options) if to_low_noise else options)

    def _low_noise_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """The low-noise MODEL's own options, and what the sampler itself added to the ones that it was given."""
        assert self.low_noise is not None
        merged = comfy.model_patcher.create_model_options_clone(self.low_noise.run_options)
        own = self.guider.model_options.get("sampler_post_cfg_function", [])
        added = [fn for fn in options.get("sampler_post_cfg_function", []) if fn not in own]
        for fn in added:
            merged = comfy.model_patcher.set_model_options_post_cfg_function(merged, fn)
        if added and options.get("disable_cfg1_optimization"):
            merged["disable_cfg1_optimization"] = True
        return merged

    def _combine(self, positive: Tensor, negative: Tensor, scale: float) -> Tensor:
        assert self._moment is not None
        if any(self._moment.options.get(name) for name in CFG_PATCHES):
            return self._host_combine(positive, negative, scale)
        return guide(positive, negative, scale, self.settings.guidance.rescale)

    def _host_combine(self, positive: Tensor, negative: Tensor, scale: float) -> Tensor:
        """Core's own combination, which calls the guidance patches of other packs."""
        moment = self._moment
        assert moment is not None
        x, sigma, options, model = moment.latents, moment.sigma, moment.options, moment.expert.inner_model
        conds = [moment.expert.conds[branch] for branch in BRANCHES]
        outputs = [x - sigma * positive, x - sigma * negative]
        self._combining = True
        try:
            for patch in options.get("sampler_pre_cfg_function", []):
                outputs = patch({"conds": conds, "conds_out": outputs, "cond_scale": scale, "timestep": moment.timestep,
                                 "input": x, "sigma": moment.timestep, "model": model, "model_options": options})  # fmt: skip
            denoised = comfy.samplers.cfg_function(
                model, outputs[0], outputs[1], scale, x, moment.timestep, options, cond=conds[0], uncond=conds[1]
            )
        finally:
            self._combining = False
        return (x - denoised) / sigma

    def _why_split(self, moment: _Moment) -> str:
        shape = [2 * moment.latents.shape[0], *moment.latents.shape[1:]]
        needed = 1.5 * moment.expert.inner_model.memory_required(shape)
        free = comfy.model_management.get_free_memory(moment.latents.device)
        rows = [tuple(cond["cross_attn"].shape) for branch in BRANCHES for cond in moment.expert.conds[branch]]
        return (
            f"guidance mode is batched and ComfyUI ran the branches apart: it joins them when about {needed / 2**30:.2f} GiB are "
            f"free ({free / 2**30:.2f} GiB are) and when both have the same shapes (text rows: {rows}) and no area, mask or hook of "
            "their own. Use mode auto or sequential, a smaller or shorter video, or encode with FastVideo Text Encode."
        )

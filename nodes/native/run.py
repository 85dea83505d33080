"""One generation on native MODELs: the denoiser over ComfyUI's own model calls, for one or two experts.

Everything that other packs attach to a MODEL acts as under core's KSampler, because the calls below are core's own.
"""

import weakref
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from fastvideo_core import (
    ROUNDING,
    Branch,
    Call,
    CapacityError,
    Contribution,
    Guidance,
    GuidanceSettings,
    Phase,
    Prediction,
    Schedule,
    guide,
    plan,
)

from .call import BRANCHES, lent
from .expert import LowNoiseExpert
from .stopwatch import Stopwatch
from .taking_part import Participant

CFG_PATCHES = ("sampler_cfg_function", "sampler_post_cfg_function", "sampler_pre_cfg_function")


@dataclass(frozen=True, kw_only=True)
class GuiderSettings:
    """boundary: None for one expert; shift: what the noise levels were made with, None where that is not known; partial: whether
    other samplers make other steps of the run; the others as in `fastvideo_core.plan` and `GuidanceSettings`."""

    guidance_scale: float
    low_noise_guidance_scale: float | None
    boundary: float | None
    guidance: GuidanceSettings
    shift: float | None = None
    partial: bool = False


def native_plan(model: Any, settings: GuiderSettings, sigmas: Tensor, adds_noise: bool) -> Schedule:
    """The schedule of a run, and how much of a whole one it is. Samplers that add no noise or leave some share a run with
    others."""
    partial = settings.partial or not adds_noise or bool((sigmas[-1:] > ROUNDING).any())
    scales = settings.guidance_scale, settings.low_noise_guidance_scale
    schedule = plan(sigmas.tolist(), *scales, settings.boundary, partial=partial)
    return schedule.within(float(model.get_model_object("model_sampling").shift))


@dataclass
class _Moment:
    """Where a prediction stands: what core hands a guider, the expert at work, and the calls made so far."""

    expert: Any
    timestep: Tensor
    sigma: float
    phase: Phase
    latents: Tensor
    options: dict[str, Any]
    calls: list[tuple[Branch, ...]] = field(default_factory=list)


class NativeRun:
    """State of one generation on native MODELs. Also the denoiser of its guidance."""

    def __init__(
        self, guider: Any, low_noise: LowNoiseExpert | None, settings: GuiderSettings, sigmas: Tensor, noise: Tensor
    ) -> None:
        self.guider, self.low_noise, self.settings = guider, low_noise, settings
        self.adds_noise = bool(noise.any())
        self.schedule = native_plan(guider.model_patcher, settings, sigmas, self.adds_noise)
        own = weakref.proxy(self)  # a cycle would keep the MODELs until the next garbage collection
        self.guidance = Guidance(self.schedule, settings.guidance, lambda *branches: own._combine(*branches))
        self.stopwatch = Stopwatch(guider.model_patcher.load_device)
        self.exact_sigma: float | None = None  # set by the engine's loop, which knows it; otherwise read from the device
        self._joined: dict[Any, list[Participant]] = {}  # of each expert
        self.extra_calls = 0  # passes that patches of other packs added
        self._active: Any = guider
        self._level: tuple[float, Phase] = (self.schedule.sigmas[0], self.schedule.phases[0])
        self._moment: _Moment | None = None
        self._combining = False  # while patches of other packs join the branches, maybe with passes of their own

    @property
    def gate(self) -> float:
        return self.settings.guidance.gate

    def phases_of(self, guider: Any) -> tuple[Phase, ...]:
        if self.low_noise is None:
            return self.schedule.phases
        return (self.schedule.phases[guider is self.low_noise],)

    def join(self, guider: Any, participant: Participant) -> None:
        self._joined.setdefault(guider, []).append(participant)

    def contribution(self) -> Contribution:
        """Of all who took part, expert by expert."""
        names = {self.guider: self.schedule.phases[0].expert, self.low_noise: "low_noise"}
        parts = (part.contribution(name) for guider, name in names.items() for part in self._joined.get(guider, ()))
        return sum(parts, Contribution())

    def count_calls_of(self, expert: Any) -> None:
        """Counts the network's calls where they happen, inside all wrappers: what a cache skips was not called."""
        comfy.patcher_extension.add_wrapper_with_key(
            WrappersMP.DIFFUSION_MODEL, "fastvideo_calls", self._count_call, expert.model_options, is_model_options=True
        )

    def at(self, timestep: Tensor, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The expert of noise level `timestep` (B,), ready to work, and the options of its calls.

        The only place where an expert's weights move.
        """
        sigma = float(timestep[0]) if self.exact_sigma is None else self.exact_sigma
        phase = self.schedule.phase_of(self.schedule.step_at(sigma))
        self._level = (sigma, phase)
        if self.low_noise is None or phase.expert != "low_noise":
            self._activate(self.guider)
            return self.guider, options
        self._activate(self.low_noise)
        return self.low_noise, self._low_noise_options(self.low_noise, options)

    def level_of(self, timestep: Tensor) -> float:
        """The noise level of a call of the network, which is known where it is the prediction's own; that of a patch's pass at
        another level is read from the device, which waits."""
        moment = self._moment
        return moment.sigma if moment is not None and timestep is moment.timestep else float(timestep[0])

    def denoised(self, expert: Any, latents: Tensor, timestep: Tensor, options: dict[str, Any]) -> Tensor:
        """What a core sampler asks for: the clean latents (B, C, T, H, W) seen from noise level `timestep` (B,)."""
        sigma, phase = self._level
        self._moment = moment = _Moment(expert, timestep, sigma, phase, latents, options)
        try:
            with lent(options, **self._rescale()):
                if expert.cfg != phase.guidance_scale:
                    return self._with_scale_of_host(moment)
                self.guidance.every_branch = bool(options.get("disable_cfg1_optimization", False))
                velocity = self.guidance.velocity(self, latents, sigma)
                if not self._has_negative(phase) and any(options.get(name) for name in CFG_PATCHES):
                    # Core hands its patches zeros for a branch that did not run.
                    velocity = self._host_combine(velocity, latents / sigma, phase.guidance_scale)
                return latents - sigma * velocity
        finally:
            self._moment = None

    def predict(self, latents: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Prediction:
        """All `branches` through core's calc_cond_batch, which joins them where conditions and memory allow."""
        moment = self._now
        moment.calls = []
        conds = [moment.expert.conds[branch] if branch in branches else None for branch in BRANCHES]
        model, options = moment.expert.inner_model, moment.options
        if "sampler_calc_cond_batch_function" in options:
            outputs = options["sampler_calc_cond_batch_function"](
                {"conds": conds, "input": latents, "sigma": moment.timestep, "model": model, "model_options": options}
            )
        else:
            outputs = comfy.samplers.calc_cond_batch(model, conds, latents, moment.timestep, options)
        if len(branches) == 2:
            self._check_batched(moment)
        velocities = [(latents - outputs[BRANCHES.index(branch)]) / sigma for branch in branches]
        return Prediction(velocities, moment.calls)

    def fits_batched(self) -> tuple[bool, str]:
        return True, "ComfyUI joins the branches when 1.5 times the estimated memory is free"

    @property
    def _now(self) -> _Moment:
        assert self._moment is not None
        return self._moment

    def _count_call(self, executor: Any, x: Tensor, timestep: Tensor, context: Any, clip_fea: Any, time_dim_concat: Any,
                    transformer_options: dict[str, Any], **kwargs: Any) -> Any:  # fmt: skip
        if self._moment is None or self._combining:
            self.extra_calls += 1
        else:
            self._moment.calls.append(tuple(BRANCHES[i] for i in transformer_options["cond_or_uncond"]))
        return executor(x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs)

    def _activate(self, expert: Any) -> None:
        if expert is self._active:
            return
        for participant in self._joined.get(self._active, ()):
            participant.phase_over()  # before the other expert's weights come
        if isinstance(expert, LowNoiseExpert) and expert.inner_model is None:
            expert.load()
        else:  # a sampler went back over the boundary
            comfy.sampler_helpers.prepare_sampling(
                expert.model_patcher, self.guider.latent_shape, expert.conds, expert.model_options
            )
            expert.inner_model.current_patcher = expert.model_patcher  # two experts may be two patchings of one network
        self._active = expert

    def _low_noise_options(self, low_noise: LowNoiseExpert, options: dict[str, Any]) -> dict[str, Any]:
        """The low-noise MODEL's own options, and what the sampler itself added to the ones that it was given. They stay the same
        over the steps, for what patches leave in them."""
        own = self.guider.model_options.get("sampler_post_cfg_function", [])
        added = [function for function in options.get("sampler_post_cfg_function", []) if function not in own]
        if low_noise.merged is None or low_noise.merged[0] != added:
            merged = comfy.model_patcher.create_model_options_clone(low_noise.run_options)
            for function in added:
                merged = comfy.model_patcher.set_model_options_post_cfg_function(merged, function)
            if added and options.get("disable_cfg1_optimization"):
                merged["disable_cfg1_optimization"] = True
            low_noise.merged = (added, merged)
        return low_noise.merged[1]

    def _with_scale_of_host(self, moment: _Moment) -> Tensor:
        """Core's own guidance, where a patch of another pack (such as core's CFG Override) has set the scale of this
        evaluation on the guider. The gate's difference is neither used nor changed."""
        expert = moment.expert
        denoised = comfy.samplers.sampling_function(
            expert.inner_model, moment.latents, moment.timestep, expert.conds["negative"], expert.conds["positive"], expert.cfg,
            moment.options,
        )  # fmt: skip
        step = self.schedule.step_at(moment.sigma)
        self.guidance.calls.extend(Call(step, moment.phase.expert, call) for call in moment.calls)
        return denoised

    def _rescale(self) -> dict[str, Any]:
        """Our rescale as what core calls a cfg function, for where core joins the branches."""
        rescale = self.settings.guidance.rescale
        if rescale == 0:
            return {}
        return {"sampler_cfg_function": lambda a: guide(a["cond"], a["uncond"], a["cond_scale"], rescale)}

    def _has_negative(self, phase: Phase) -> bool:
        return phase.guided or self.guidance.every_branch

    def _combine(self, positive: Tensor, negative: Tensor, scale: float) -> Tensor:
        if any(self._now.options.get(name) for name in CFG_PATCHES):
            return self._host_combine(positive, negative, scale)
        return guide(positive, negative, scale)

    def _host_combine(self, positive: Tensor, negative: Tensor, scale: float) -> Tensor:
        """Core's own combination, which calls the guidance patches of other packs."""
        moment = self._now
        x, sigma, options, model = moment.latents, moment.sigma, moment.options, moment.expert.inner_model
        conds = [moment.expert.conds["positive"], moment.expert.conds["negative"] if self._has_negative(moment.phase) else None]
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

    def _check_batched(self, moment: _Moment) -> None:
        """Raises CapacityError where one call was asked for and ComfyUI made two."""
        if self.settings.guidance.mode != "batched" or all(len(set(call)) == 2 for call in moment.calls):
            return
        shape = [2 * moment.latents.shape[0], *moment.latents.shape[1:]]
        needed = 1.5 * moment.expert.inner_model.memory_required(shape)
        free = comfy.model_management.get_free_memory(moment.latents.device)
        conds = [cond for branch in BRANCHES for cond in moment.expert.conds[branch]]
        rows = [cond["cross_attn"].shape[1] for cond in conds if "cross_attn" in cond]
        raise CapacityError(
            f"guidance mode is batched and ComfyUI ran the branches apart: it joins them when about {needed / 2**30:.2f} GiB "
            f"are free ({free / 2**30:.2f} GiB are) and when both have the same shapes (text rows: {rows}) and no area, mask or "
            "hook of their own. Use mode auto or sequential, a smaller or shorter video, or encode with FastVideo Text Encode."
        )

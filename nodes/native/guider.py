"""Guidance per phase, the gate and several experts as a ComfyUI guider, around core's own `CFGGuider`.

The first phase's expert is the guider itself; the others are guiders whose runs are opened around it, so that the wrappers of all
MODELs see a whole run, and whose weights are loaded when their phase begins.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fastvideo_core import (
    GenerationState,
    Guess,
    GuidanceSettings,
    RequestError,
    RunReport,
    Schedule,
    check_finite,
    is_one,
    told_of_guesses,
)

from .expert import LaterExpert
from .facts import (
    check_conditioning,
    check_experts,
    check_frames,
    check_latent,
    check_one_device,
    condition_notes,
    socket_of,
    told_notes,
    wan_facts,
)
from .marks import on_models, warned
from .plan import GuiderSettings, is_partial, native_plan
from .progress import ALONE, Progress
from .remote_network import remote_of
from .report import native_report, solver_name
from .run import NativeRun
from .taking_part import ExpertGuider


class WanGuider(ExpertGuider):
    """A core GUIDER. `report` is the last finished generation's."""

    run: NativeRun
    resumed: GenerationState | None = None
    progress: Progress = ALONE

    def __init__(
        self, models: Mapping[str, Any], positive: Any, negative: Any, settings: GuiderSettings, recipes: Sequence[Guess] = ()
    ) -> None:
        """models: by the names of the phases' experts; the guider itself is the first one's. recipes: those that the MODELs may
        be of; what contradicts them is told when the run begins."""
        (self.name, model), *others = models.items()
        super().__init__(model)
        self.facts = wan_facts(model)
        self.settings, self.prompts, self.recipes = settings, (positive, negative), recipes
        phases = [phase for phase in settings.phases if phase.expert in models]
        guided = not all(is_one(phase.guidance_scale) for phase in phases)
        branches = {"positive": positive, **({"negative": negative} if guided else {})}
        check_conditioning(branches, self.facts)
        self.notes = (*condition_notes(branches, self.facts), *told_notes(branches))
        _check_patches(settings.guidance, list(models.values()))
        self.set_conds(positive, negative)
        self.later = {name: self._later(name, other) for name, other in others}

    def _later(self, name: str, model: Any) -> LaterExpert:
        check_experts(self.facts, wan_facts(model, socket_of(name)), name)
        check_one_device(model, name)
        expert = LaterExpert(model)
        expert.set_conds(*self.prompts)
        return expert

    @property
    def experts(self) -> dict[str, ExpertGuider]:
        return {self.name: self, **self.later}

    def planned(self, noise: Any, sigmas: Any) -> Schedule:
        """Of a run with this noise and these levels."""
        return native_plan(self.model_patcher, self.settings, sigmas, bool(noise.any()))

    def for_run(self, noise: Any, sigmas: Any, resumed: GenerationState | None = None) -> "WanGuider":
        """A guider for one run: this one; where some experts have no step in it, for it is a part or goes on from a state, one
        of the others, for those weights are not needed."""
        first = 0 if resumed is None else resumed.step
        working = {phase.expert for phase in self.planned(noise, sigmas).phases if phase.stop > first}
        models = {name: expert.model_patcher for name, expert in self.experts.items() if name in working}
        if resumed is None and len(models) == len(self.experts):
            return self
        guider = WanGuider(models or {self.name: self.model_patcher}, *self.prompts, self.settings, self.recipes)
        guider.resumed = resumed
        return guider

    def sample(self, noise: Any, latent_image: Any, sampler: Any, sigmas: Any, denoise_mask: Any = None,
               callback: Any = None, disable_pbar: bool = False, seed: int | None = None) -> Any:  # fmt: skip
        """Core's signature. Returns the latents (B, C, T, H, W)."""
        guider = self if self.resumed else self.for_run(noise, sigmas)
        if guider is not self:
            video = guider.sample(noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed)
            self.report: RunReport = guider.report
            return video
        self._check_inputs(latent_image, denoise_mask)
        self.run = run = NativeRun(self.experts, self.settings, self.planned(noise, sigmas), noise, self.resumed, self.recipes)
        run.notes.extend(self._told(run, sampler, sigmas))

        def after_step(step: int, denoised: Any, latents: Any, steps: int) -> None:
            run.stopwatch.lap()
            self.progress.tell(run.step_text())
            if callback is not None:
                callback(step, denoised, latents, steps)

        inside = super().sample
        for expert in self.later.values():
            inside = partial(expert.sample_around, run, inside)
        try:
            with run.counting_moves():
                video = inside(noise, latent_image, sampler, sigmas, denoise_mask, after_step, disable_pbar, seed)
        finally:
            self.forget_run()  # it holds latents and conditions of this generation, and this object
        check_finite(video, "The sampler")
        self.report = native_report(self, run, sampler, seed or 0, tuple(video.shape))
        logging.info("%s", self.report.text())
        return video

    def outer_sample(self, *args: Any, **kwargs: Any) -> Any:
        self.run.count_calls_of(self)
        return super().outer_sample(*args, **kwargs)

    def inner_sample(self, noise: Any, latent_image: Any, device: Any, sampler: Any, sigmas: Any, denoise_mask: Any,
                     callback: Any, disable_pbar: bool, seed: int, **kwargs: Any) -> Any:  # fmt: skip
        for expert in self.later.values():
            expert.remember(noise, latent_image, device, sigmas, denoise_mask, seed, **kwargs)
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

    def _told(self, run: NativeRun, sampler: Any, sigmas: Any) -> tuple[str, ...]:
        """What contradicts the recipe of the MODELs in a whole run."""
        if is_partial(self.settings, sigmas, run.adds_noise):
            return ()
        models = [expert.model_patcher for expert in self.experts.values()]
        tell = warned if self.resumed is None else told_of_guesses  # it was told when the run began
        return tell(self.recipes, run.schedule, solver_name(sampler), **on_models(models))

    def _check_inputs(self, latent: Any, denoise_mask: Any) -> None:
        check_latent(latent, self.facts)
        check_frames(self.original_conds, latent, self.facts)
        if denoise_mask is None:
            return
        patched = {"denoise_mask_function" in expert.model_options for expert in self.experts.values()}
        if len(patched) == 2:
            raise RequestError(
                "Only one of the experts has a patch of the noise mask, such as Differential Diffusion, and the mask acts on all "
                "of them. Put that node on all models, or on none."
            )


def _check_patches(guidance: GuidanceSettings, models: list[Any]) -> None:
    """Settings that a patch of another pack on one of the MODELs would undo, or that would undo the patch, or that the workers of
    one are not made for."""
    for remote in filter(None, map(remote_of, models)):
        remote.check_branches(guidance)
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

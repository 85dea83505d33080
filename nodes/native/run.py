"""One generation on native MODELs: the denoiser over ComfyUI's own model calls, for one or two experts.

Everything that other packs attach to a MODEL acts as under core's KSampler, because the calls below are core's own.
"""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

from fastvideo_core import (
    Branch,
    Call,
    CapacityError,
    Contribution,
    GenerationState,
    Guess,
    Guidance,
    Phase,
    Prediction,
    Schedule,
    guide,
)

from .call import BRANCHES, lent
from .combine import Evaluation, host_combined, host_guided, patched, rescaling
from .expert import LaterExpert
from .phases import two_networks
from .plan import GuiderSettings
from .progress import step_text
from .stopwatch import Stopwatch
from .taking_part import ExpertGuider, Participant


class NativeRun:
    """State of one generation on native MODELs. Also the denoiser of its guidance.

    experts: by name, the guider that all this belongs to first. moves: how often weights were brought to the device. recipes:
    those that the MODELs may be of.
    """

    def __init__(
        self, experts: Mapping[str, ExpertGuider], settings: GuiderSettings, schedule: Schedule, noise: Tensor,
        resumed: GenerationState | None, recipes: Sequence[Guess],
    ) -> None:  # fmt: skip
        self.experts, self.settings, self.schedule, self.noise_shape = experts, settings, schedule, noise.shape
        self.adds_noise, self.resumed, self.recipes = bool(noise.any()), resumed, recipes
        first = next(iter(experts.values()))
        own = weakref.proxy(self)  # a cycle would keep the MODELs until the next garbage collection
        self.guidance = Guidance(self.schedule, settings.guidance, lambda *branches: own._combine(*branches))
        self.stopwatch = Stopwatch(first.model_patcher.load_device)
        self.exact_sigma: float | None = None  # set by the engine's loop, which knows it; otherwise read from the device
        self._joined: dict[ExpertGuider, list[Participant]] = {}
        self.extra_calls = 0  # passes that patches of other packs added
        self._scaled: dict[ExpertGuider, Phase] = {}
        for expert in experts.values():
            self._scale(expert, next(self._left(expert), schedule.phases[0]))
        self.moves = 0
        self.notes: list[str] = []  # for the report
        self._first = self._active = first
        self._level: tuple[float, Phase | None] = (1.0, None)  # of the prediction at work
        self._evaluation: Evaluation | None = None

    @property
    def first_step(self) -> int:
        """The first one that it makes."""
        return 0 if self.resumed is None else self.resumed.step

    @property
    def gate(self) -> float:
        return self.settings.guidance.gate

    @property
    def two_networks(self) -> bool:
        return two_networks(self.settings.phases)

    @property
    def planned(self) -> bool:
        return len(self.settings.phases) > 1

    def phases_of(self, guider: Any) -> tuple[Phase, ...]:
        return tuple(phase for phase in self.schedule.phases if self.experts.get(phase.expert) is guider)

    def _left(self, guider: Any) -> Iterator[Phase]:
        """Those that it has to make."""
        return (phase for phase in self.phases_of(guider) if phase.stop > self.first_step)

    def join(self, guider: Any, participant: Participant) -> None:
        self._joined.setdefault(guider, []).append(participant)

    def contribution(self) -> Contribution:
        """Of all who took part, expert by expert."""
        parts = (part.contribution(name) for name, expert in self.experts.items() for part in self._joined.get(expert, ()))
        return sum(parts, Contribution())

    def step_text(self) -> str:
        """Where it is, for people."""
        skipped = sum(part.skipped_steps for parts in self._joined.values() for part in parts)
        laps = self.stopwatch.laps
        return step_text(self.first_step + len(laps), self.schedule.steps, laps, skipped)

    @contextmanager
    def counting_moves(self) -> Iterator[None]:
        """Counts what core's loader does with the experts' weights."""
        models = [expert.model_patcher for expert in self.experts.values()]
        for model in models:
            model.add_callback_with_key(CallbacksMP.ON_LOAD, "fastvideo_moves", self._count_move)
        try:
            yield
        finally:
            for model in models:
                model.remove_callbacks_with_key(CallbacksMP.ON_LOAD, "fastvideo_moves")

    def _count_move(self, *_: Any) -> None:
        self.moves += 1

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
        expert = self.experts[phase.expert]
        if phase is not self._scaled[expert]:
            self._scale(expert, phase)
        self._level = (sigma, phase)
        self._activate(expert)
        return expert, self._options_of(expert, options) if isinstance(expert, LaterExpert) else options

    def _scale(self, expert: ExpertGuider, phase: Phase) -> None:
        """What else is to read the scale from the guider, or to change it there, finds that of the phase."""
        self._scaled[expert] = phase
        expert.set_cfg(phase.guidance_scale)

    def level_of(self, timestep: Tensor) -> float:
        """The noise level of a call of the network, which is known where it is the prediction's own; that of a patch's pass at
        another level is read from the device, which waits."""
        evaluation = self._evaluation
        return evaluation.sigma if evaluation is not None and timestep is evaluation.timestep else float(timestep[0])

    def denoised(self, expert: Any, latents: Tensor, timestep: Tensor, options: dict[str, Any]) -> Tensor:
        """What a core sampler asks for: the clean latents (B, C, T, H, W) seen from noise level `timestep` (B,)."""
        sigma, phase = self._level
        assert phase is not None  # `at` came before
        self._evaluation = evaluation = Evaluation(expert, timestep, sigma, phase, latents, options)
        try:
            with lent(options, **rescaling(self.settings.guidance.rescale)):
                if expert.cfg != phase.guidance_scale:
                    return self._with_scale_of_host(evaluation)
                self.guidance.every_branch = bool(options.get("disable_cfg1_optimization", False))
                velocity = self.guidance.velocity(self, latents, sigma)
                if not self._has_negative(phase) and patched(evaluation):
                    # Core hands its patches zeros for a branch that did not run.
                    velocity = self._host_combine(velocity, latents / sigma, phase.guidance_scale)
                return latents - sigma * velocity
        finally:
            self._evaluation = None

    def predict(self, latents: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Prediction:
        """All `branches` through core's calc_cond_batch, which joins them where conditions and memory allow."""
        evaluation = self._now
        evaluation.calls = []
        conds = [evaluation.expert.conds[branch] if branch in branches else None for branch in BRANCHES]
        model, options = evaluation.expert.inner_model, evaluation.options
        if "sampler_calc_cond_batch_function" in options:
            outputs = options["sampler_calc_cond_batch_function"](
                {"conds": conds, "input": latents, "sigma": evaluation.timestep, "model": model, "model_options": options}
            )
        else:
            outputs = comfy.samplers.calc_cond_batch(model, conds, latents, evaluation.timestep, options)
        if len(branches) == 2:
            self._check_batched(evaluation)
        velocities = [(latents - outputs[BRANCHES.index(branch)]) / sigma for branch in branches]
        return Prediction(velocities, evaluation.calls)

    def fits_batched(self) -> tuple[bool, str]:
        return True, "ComfyUI joins the branches when 1.5 times the estimated memory is free"

    @property
    def _now(self) -> Evaluation:
        assert self._evaluation is not None
        return self._evaluation

    def _count_call(self, executor: Any, x: Tensor, timestep: Tensor, context: Any, clip_fea: Any, time_dim_concat: Any,
                    transformer_options: dict[str, Any], **kwargs: Any) -> Any:  # fmt: skip
        if self._evaluation is None or self._evaluation.combining:
            self.extra_calls += 1
        else:
            self._evaluation.calls.append(tuple(BRANCHES[i] for i in transformer_options["cond_or_uncond"]))
        return executor(x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs)

    def _activate(self, expert: ExpertGuider) -> None:
        if expert is self._active:
            return
        for participant in self._joined.get(self._active, ()):
            participant.phase_over()  # before the other expert's weights come
        if isinstance(expert, LaterExpert) and expert.inner_model is None:
            expert.load()
        else:  # a later phase of it, or a sampler that went back over a boundary
            comfy.sampler_helpers.prepare_sampling(expert.model_patcher, self.noise_shape, expert.conds, expert.model_options)
            expert.inner_model.current_patcher = expert.model_patcher  # experts may be patchings of one network
        self._active = expert

    def _options_of(self, expert: LaterExpert, options: dict[str, Any]) -> dict[str, Any]:
        """The MODEL's own options, and what the sampler itself added to the ones that it was given. They stay the same over the
        steps, for what patches leave in them."""
        own = self._first.model_options.get("sampler_post_cfg_function", [])
        added = [function for function in options.get("sampler_post_cfg_function", []) if function not in own]
        if expert.merged is None or expert.merged[0] != added:
            merged = comfy.model_patcher.create_model_options_clone(expert.run_options)
            for function in added:
                merged = comfy.model_patcher.set_model_options_post_cfg_function(merged, function)
            if added and options.get("disable_cfg1_optimization"):
                merged["disable_cfg1_optimization"] = True
            expert.merged = (added, merged)
        return expert.merged[1]

    def _with_scale_of_host(self, evaluation: Evaluation) -> Tensor:
        """Where a patch of another pack (such as core's CFG Override) has set the scale of this evaluation on the guider. The
        gate's difference is neither used nor changed."""
        denoised = host_guided(evaluation)
        step = self.schedule.step_at(evaluation.sigma)
        self.guidance.calls.extend(Call(step, evaluation.phase.expert, call) for call in evaluation.calls)
        return denoised

    def _has_negative(self, phase: Phase) -> bool:
        return phase.guided or self.guidance.every_branch

    def _combine(self, positive: Tensor, negative: Tensor, scale: float) -> Tensor:
        return self._host_combine(positive, negative, scale) if patched(self._now) else guide(positive, negative, scale)

    def _host_combine(self, positive: Tensor, negative: Tensor, scale: float) -> Tensor:
        return host_combined(self._now, positive, negative, scale, self._has_negative(self._now.phase))

    def _check_batched(self, evaluation: Evaluation) -> None:
        """Raises CapacityError where one call was asked for and ComfyUI made two."""
        if self.settings.guidance.mode != "batched" or all(len(set(call)) == 2 for call in evaluation.calls):
            return
        shape = [2 * evaluation.latents.shape[0], *evaluation.latents.shape[1:]]
        needed = 1.5 * evaluation.expert.inner_model.memory_required(shape)
        free = comfy.model_management.get_free_memory(evaluation.latents.device)
        conds = [cond for branch in BRANCHES for cond in evaluation.expert.conds[branch]]
        rows = [cond["cross_attn"].shape[1] for cond in conds if "cross_attn" in cond]
        raise CapacityError(
            f"guidance mode is batched and ComfyUI ran the branches apart: it joins them when about {needed / 2**30:.2f} GiB "
            f"are free ({free / 2**30:.2f} GiB are) and when both have the same shapes (text rows: {rows}) and no area, mask or "
            "hook of their own. Use mode auto or sequential, a smaller or shorter video, or encode with FastVideo Text Encode."
        )

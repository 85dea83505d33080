"""The engine's loop in the shape of a k-diffusion sampler function, which core's KSAMPLER calls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from fastvideo_core import GenerationState, Moment, SamplingRequest, Solver, Step, denoise, go_on, make_solver

from .guider import WanGuider


@dataclass(frozen=True, kw_only=True)
class EngineLoop:
    """One generation. start: of its first step in the whole run; resumed: the state that it goes on from; phases: how many are
    made, 0 for all; keep: is given its state after each phase, the last one too with keep_last, and where it ends early; about:
    what that is of."""

    guider: WanGuider
    request: SamplingRequest
    start: int
    resumed: GenerationState | None = None
    phases: int = 0
    keep: Callable[[GenerationState], object] | None = None
    keep_last: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def __name__(self) -> str:
        """What core's log and the report call it."""
        return self.request.solver

    def __call__(self, model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, disable: bool) -> Tensor:
        """x: noisy latents (B, C, T, H, W). Returns the clean latents; where it stops early, as its last step saw them."""
        run = self.guider.run
        solver = make_solver(self.request.solver, run.schedule.sigmas, self.request.seed, self.start)
        if self.resumed is not None:
            x = self._go_on(self.resumed, solver, x.device)
        ones, first = x.new_ones(x.shape[0]), run.first_step
        denoised, moment = x, Moment.of(first, x, solver, run.guidance)

        def velocity(latents: Tensor, sigma: float) -> Tensor:
            run.exact_sigma = sigma
            return (latents - model(latents, sigma * ones, **extra_args)) / sigma

        try:
            with tqdm(total=run.schedule.steps, initial=first, disable=disable) as bar:
                for phase in run.schedule.phases[: self.phases or None]:
                    for step in denoise(velocity, x, solver, run.schedule, phase, first):
                        x, denoised = step.latents, step.denoised
                        moment = Moment.of(step.index + 1, x, solver, run.guidance)
                        tell(step, callback)
                        bar.update()
                    if first < phase.stop and (phase.stop < run.schedule.steps or self.keep_last):
                        self._keep(moment)
        except BaseException:
            self._keep(moment)
            raise
        return x if moment.step == run.schedule.steps else denoised

    def _go_on(self, state: GenerationState, solver: Solver, device: torch.device) -> Tensor:
        """Returns its latents."""
        if state.about["conditioning"] != self.about["conditioning"]:
            self.guider.run.notes.append("the conditioning is another one than that of the steps before")
        return go_on(state, solver, self.guider.run.guidance, device)

    def _keep(self, moment: Moment) -> None:
        """It waits for the device."""
        if self.keep is not None and moment.step > 0:
            self.keep(moment.state(self.about))


def tell(step: Step, callback: Callable[[dict[str, Any]], None]) -> None:
    """Progress, preview and interrupt: core's callback raises when the run was interrupted."""
    sigma = step.schedule.sigmas[step.index]
    callback({"i": step.index, "x": step.latents, "denoised": step.denoised, "sigma": sigma, "sigma_hat": sigma})

"""The engine's solvers as core SAMPLERs, for SamplerCustomAdvanced with any guider."""

from dataclasses import dataclass
from typing import Any

import comfy.samplers
from torch import Tensor
from tqdm.auto import tqdm

from fastvideo_core import SolverName, denoise, make_solver, plan

from .loop import tell


@dataclass(frozen=True)
class SolverFunction:
    """In the shape of a k-diffusion sampler function, which core's KSAMPLER calls."""

    solver: SolverName

    @property
    def __name__(self) -> str:
        """What core's log and the report call it."""
        return self.solver

    def __call__(self, model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, disable: bool) -> Tensor:
        """x: noisy latents (B, C, T, H, W). Returns the latents at the last level."""
        schedule = plan(sigmas.tolist(), 1.0)
        solver = make_solver(self.solver, schedule.sigmas, extra_args.get("seed") or 0)
        ones = x.new_ones(x.shape[0])

        def velocity(latents: Tensor, sigma: float) -> Tensor:
            return (latents - model(latents, sigma * ones, **extra_args)) / sigma

        with tqdm(total=schedule.steps, disable=disable) as bar:
            for step in denoise(velocity, x, solver, schedule, schedule.phases[0]):
                x = step.latents
                tell(step, callback)
                bar.update()
        return x


def solver_sampler(solver: SolverName) -> Any:
    """A core SAMPLER."""
    return comfy.samplers.KSAMPLER(SolverFunction(solver))

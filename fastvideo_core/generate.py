"""START HERE. One generation, as a thing that you iterate: predict, guide, solve, yield.

Progress, preview and cancelling belong to whoever iterates; closing the iterator early leaves nothing behind.
"""

import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .conditioning import Conditioning, GivenFrame
from .errors import NumericsError, RequestError
from .guidance import Denoiser, Guidance
from .request import SamplingRequest
from .schedule import Phase, Schedule
from .solvers import Solver, begin, make_solver


@dataclass(frozen=True)
class Step:
    """One step done. latents: where it led; denoised: the clean video the model saw in it; both (B, C, T, H, W)."""

    index: int
    schedule: Schedule
    phase: Phase
    latents: Tensor
    denoised: Tensor
    seconds: float


class Turn(NamedTuple):
    """Phases in a row of one expert, for which its weights are loaded once."""

    expert: str
    phases: tuple[Phase, ...]

    @property
    def stop(self) -> int:
        """The step after its last one."""
        return self.phases[-1].stop


def turns(schedule: Schedule, first: int = 0) -> tuple[Turn, ...]:
    """Those that are left before step `first`."""
    left = (phase for phase in schedule.phases if phase.stop > first)
    return tuple(Turn(expert, tuple(phases)) for expert, phases in groupby(left, key=lambda phase: phase.expert))


class Experts(Protocol):
    """The weights of one model, ready to denoise under one conditioning."""

    @property
    def names(self) -> Collection[str]:
        """Those that the model has."""
        ...

    def loaded(self, expert: str) -> AbstractContextManager[object]:
        """Around all phases in a row of one expert: the only place where its weights move."""
        ...

    def active(self, phase: Phase) -> AbstractContextManager[Denoiser]:
        """The denoiser of one phase, while its expert is loaded."""
        ...


def denoise(
    velocity: Callable[[Tensor, float], Tensor],
    latents: Tensor,
    solver: Solver,
    schedule: Schedule,
    phase: Phase,
    first: int = 0,
) -> Iterator[Step]:
    """The steps of one phase, those from `first` on. velocity: (latents, sigma) -> guided velocity, all (B, C, T, H, W) float32.

    Nothing here waits for the device. On a GPU a step's seconds are therefore those of the host, which the device's bounded
    queue holds to the same pace after the first ones; only the sum over a run that ends with a look at the latents is exact.
    """
    for i in range(max(phase.start, first), phase.stop):
        started = time.perf_counter()
        sigma = schedule.sigmas[i]
        guided = velocity(latents, sigma)
        denoised = latents - sigma * guided
        latents = solver.step(guided, i, latents)
        yield Step(i, schedule, phase, latents, denoised, time.perf_counter() - started)


def generate(
    request: SamplingRequest,
    experts: Experts,
    conditioning: Conditioning,
    noise: Tensor,
    guidance: Guidance,
    solver: Solver | None = None,
    first: int = 0,
) -> Generator[Step, None, None]:
    """A whole generation. The last step's latents are the video.

    An expert's weights are back on their offload device when the iterator ends, is closed early, or raises.

    Args:
        noise: (B, C, T, H, W) float32, standard normal; see `seeded_noise`. Where steps were made before, the latents that they
            led to.
        guidance: of this generation, made for `request.plan()`; afterwards it holds the account of the transformer calls.
        solver: of this generation; a fresh one of the request when None.
        first: the first step to make.

    Raises:
        RequestError: the schedule asks for other experts than the model has.
        NumericsError: the latents are not finite at the end.
    """
    schedule, frame = guidance.schedule, conditioning.first_frame
    check_experts(schedule, experts.names)
    solver = solver or make_solver(request.solver, schedule.sigmas, request.seed)
    latents = noise.float() if first else begin(solver, noise.float(), schedule.sigmas[0])
    if frame is not None:
        frame = frame.to(latents)  # here, for each copy to the device waits for it
        latents = frame.impose(latents)
        solver = HoldingFrame(solver, frame)
    for turn in turns(schedule, first):
        with experts.loaded(turn.expert):
            for phase in turn.phases:
                with experts.active(phase) as denoiser:
                    for step in denoise(partial(guidance.velocity, denoiser), latents, solver, schedule, phase, first):
                        latents = step.latents
                        yield step if frame is None else replace(step, denoised=frame.impose(step.denoised))
    check_finite(latents, "The generation")


@dataclass(frozen=True)
class HoldingFrame:
    """A solver that re-imposes a given first frame after every step; solvers treat each value by itself."""

    solver: Solver
    frame: GivenFrame

    def step(self, velocity: Tensor, i: int, latents: Tensor) -> Tensor:
        return self.frame.impose(self.solver.step(velocity, i, latents))

    def history(self) -> Mapping[str, Tensor]:
        return self.solver.history()

    def go_on(self, step: int, history: Mapping[str, Tensor]) -> None:
        self.solver.go_on(step, history)


def seeded_noise(shape: tuple[int, ...], seed: int, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal noise drawn on the CPU, so that a seed means the same video on every device; the same numbers as
    ComfyUI's noise and as diffusers with a CPU generator. Returns float32 of `shape` on `device`."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), device="cpu").to(device)


def check_experts(schedule: Schedule, names: Collection[str]) -> None:
    """Raises RequestError, before any step, when the schedule asks for an expert that the model has not."""
    asked = list(dict.fromkeys(phase.expert for phase in schedule.phases))
    if not set(asked) <= set(names):
        raise RequestError(
            f"The schedule asks for the experts {', '.join(asked)}; the model has {', '.join(names)}. A model with a "
            "high_noise and a low_noise expert needs a boundary, and a single one must not have any; phases name their experts."
        )


def check_finite(latents: Tensor, what: str) -> None:
    """Raises NumericsError when latents hold NaN or infinity. It waits for the device: once per run, not per step."""
    bad = int((~latents.isfinite()).sum())
    if bad:
        raise NumericsError(
            f"{what} gave {bad} of {latents.numel()} latent values that are not finite. The usual causes are float16 "
            "weights that overflow (use bfloat16 or fp8_scaled), a broken file, or an attention kernel that does not "
            "fit this GPU."
        )

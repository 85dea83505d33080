"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598): which branches a step runs, in how many transformer
calls, and how their velocities become one. It knows branches and phases, not models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args

from torch import Tensor

from .checks import one_of, part_of, put, share
from .errors import CapacityError, RequestError
from .schedule import Phase, Schedule

Branch = Literal["positive", "negative"]
GuidanceMode = Literal["auto", "batched", "sequential"]
BOTH: tuple[Branch, Branch] = ("positive", "negative")
Combine = Callable[[Tensor, Tensor, float], Tensor]
"""(positive velocity, negative velocity, guidance scale) -> guided velocity."""


class Prediction(NamedTuple):
    """One velocity per branch, (B, C, T, H, W) float32 each, and the transformer calls it took: their branches."""

    velocities: Sequence[Tensor]
    calls: Sequence[tuple[Branch, ...]]


class Denoiser(Protocol):
    """A model that predicts the velocity of each branch; ComfyUI's models and diffusers' networks are two of them."""

    def predict(self, latents: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Prediction:
        """Runs all `branches` together, in one transformer call where the host lets it.

        Args:
            latents: (B, C, T, H, W) float32, normalised.
            sigma: noise level in 0..1.
        """
        ...

    def fits_batched(self) -> tuple[bool, str]:
        """Whether both branches fit into memory in one call, and the figures in words."""
        ...


@dataclass(frozen=True, kw_only=True)
class GuidanceSettings:
    """How guidance runs. Whether it runs is a matter of each phase's guidance scale.

    mode: "batched" runs both branches in one call, "sequential" in two, "auto" by free memory.
    gate: fraction of the steps after which only the positive branch runs and the last difference between the branches is
        reused; 1 is off ("LinearAG", Castillo et al. 2023, arXiv 2312.12487).
    rescale: 0..1, how far the guided velocity keeps the positive one's standard deviation (Lin et al. 2023,
        arXiv 2305.08891, section 3.4).
    """

    mode: GuidanceMode = "auto"
    gate: float = 1.0
    rescale: float = 0.0

    def __post_init__(self) -> None:
        one_of("guidance mode", self.mode, get_args(GuidanceMode))
        put(
            self,
            gate=share("gate", self.gate, "it is the fraction of steps with both branches, 0 to 1 (1 is off)."),
            rescale=share("guidance rescale", self.rescale, "it must lie between 0 (off) and 1."),
        )
        if self.rescale > 0 and self.gate < 1:
            raise RequestError(
                f"guidance rescale {self.rescale:g} with gate {self.gate:g}: rescale needs a fresh negative branch in "
                "every step. Set rescale to 0 or gate to 1."
            )


def guide(positive: Tensor, negative: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
    """negative + scale * (positive - negative), then the rescale of Lin et al. (diffusers' rescale_noise_cfg).

    Args:
        positive, negative: velocities (B, C, T, H, W).
    """
    guided = negative + scale * (positive - negative)
    if rescale == 0:
        return guided
    dims = list(range(1, guided.ndim))
    ratio = positive.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True)
    return guided * (rescale * ratio + (1 - rescale))


@dataclass(frozen=True)
class Call:
    """One transformer call: in which step, and over which branches."""

    step: int
    expert: str
    branches: tuple[Branch, ...]


class Guidance:
    """The guidance of one generation: its state is the last difference between the branches, and the account of calls."""

    def __init__(self, schedule: Schedule, settings: GuidanceSettings, combine: Combine | None = None) -> None:
        """combine: how a host joins the branches, where its own patches do; `guide` when None."""
        self.schedule = schedule
        self.settings = settings
        self.combine = combine or (lambda positive, negative, scale: guide(positive, negative, scale, settings.rescale))
        self.gate_step = part_of(schedule.steps, settings.gate)
        self.every_branch = False  # set where a host's patches need the negative branch even at scale 1
        self.calls: list[Call] = []
        self.batched: bool | None = None  # decided at the first guided step
        self.reason = ""
        self._difference: tuple[Phase, Tensor] | None = None

    def velocity(self, denoiser: Denoiser, latents: Tensor, sigma: float) -> Tensor:
        """Guided velocity (B, C, T, H, W) at noise level `sigma`."""
        step = self.schedule.step_at(sigma)
        phase = self.schedule.phase_of(step)
        if not (phase.guided or self.every_branch):
            return self._predict(denoiser, latents, sigma, step, ("positive",))[0]
        if step >= self.gate_step and self._difference is not None and self._difference[0] is phase:
            (positive,) = self._predict(denoiser, latents, sigma, step, ("positive",))
            return self.combine(positive, positive - self._difference[1], phase.guidance_scale)
        positive, negative = self._predict_both(denoiser, latents, sigma, step)
        self._difference = (phase, positive - negative) if self.settings.gate < 1 else None
        return self.combine(positive, negative, phase.guidance_scale)

    def difference_before(self, step: int) -> Tensor | None:
        """The last one, (B, C, T, H, W), where `step` may reuse it."""
        if self._difference is None or step not in self._difference[0].steps:
            return None
        return self._difference[1]

    def go_on(self, step: int, difference: Tensor | None, batched: bool | None) -> None:
        """Goes on before `step`, where another had these."""
        self._difference = None if difference is None else (self.schedule.phase_of(step), difference)
        self.batched, self.reason = batched, "" if batched is None else self.reason or "as in the steps before"

    def _predict_both(self, denoiser: Denoiser, latents: Tensor, sigma: float, step: int) -> Sequence[Tensor]:
        if self.batched is None:
            self.batched, self.reason = self._choose(denoiser)
        if self.batched:
            try:
                return self._predict(denoiser, latents, sigma, step, BOTH)
            except CapacityError:
                if self.settings.mode != "auto":
                    raise
                self.batched, self.reason = False, f"one call for both ran out of memory in step {step + 1}, though {self.reason}"
        return [self._predict(denoiser, latents, sigma, step, (branch,))[0] for branch in BOTH]

    def _choose(self, denoiser: Denoiser) -> tuple[bool, str]:
        if self.settings.mode == "auto":
            return denoiser.fits_batched()
        return self.settings.mode == "batched", "as asked"

    def _predict(
        self, denoiser: Denoiser, latents: Tensor, sigma: float, step: int, branches: tuple[Branch, ...]
    ) -> Sequence[Tensor]:
        prediction = denoiser.predict(latents, sigma, branches)
        expert = self.schedule.phase_of(step).expert
        self.calls.extend(Call(step, expert, call) for call in prediction.calls)
        return prediction.velocities

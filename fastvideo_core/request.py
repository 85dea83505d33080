"""What a person asks for: frozen, validated once, before anything is loaded or computed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import get_args

from .checks import number, of_kind, one_of, put, whole
from .errors import RequestError
from .guidance import GuidanceSettings
from .schedule import (
    GUIDANCE_SCALE,
    PhaseSettings,
    Schedule,
    by_boundary,
    check_boundary,
    check_phases,
    check_shift,
    check_sigmas,
    check_steps,
    plan,
    plan_phases,
    shifted_sigmas,
)
from .solvers import SolverName
from .words import counted


@dataclass(frozen=True, kw_only=True)
class VideoSize:
    """Size of a video in pixels and frames. `spatial` and `temporal` are the VAE's compression; the transformer joins
    2 x 2 latent pixels to a token, so width and height are multiples of 2 * spatial."""

    width: int
    height: int
    frames: int
    spatial: int = 8
    temporal: int = 4

    def __post_init__(self) -> None:
        for name in ("spatial", "temporal"):
            put(self, **{name: whole(name, getattr(self, name), "it is the VAE's compression, a whole number.", least=1)})
        grid = 2 * self.spatial
        for name in ("width", "height"):
            pixels = whole(name, getattr(self, name), "it must be a whole number of pixels.")
            if pixels < grid or pixels % grid:
                near = max(grid, round(pixels / grid) * grid)
                raise RequestError(f"{name} is {pixels}: it must be a multiple of {grid} pixels. The nearest is {near}.")
        whole("frames", self.frames, "it must be a whole number.")
        if self.frames < 1 or (self.frames - 1) % self.temporal:
            near = max(0, round((self.frames - 1) / self.temporal)) * self.temporal + 1
            raise RequestError(
                f"frames is {self.frames}: it must be {self.temporal} * k + 1 (1, {self.temporal + 1}, "
                f"{2 * self.temporal + 1}, ...). The nearest is {near}."
            )

    def latent_shape(self, channels: int, batch: int = 1) -> tuple[int, int, int, int, int]:
        """(B, C, T, H, W) of the latents."""
        frames = (self.frames - 1) // self.temporal + 1
        return batch, channels, frames, self.height // self.spatial, self.width // self.spatial


@dataclass(frozen=True, kw_only=True)
class SamplingRequest:
    """How to sample. Everything about noise levels, experts, guidance and solver; nothing about weights.

    phases: which expert works where, with its guidance scale, from noise to video; or in their place:
    guidance_scale: of the single expert, or of the high-noise one.
    low_noise_guidance_scale: of the low-noise expert; the same as `guidance_scale` when None.
    sigmas: steps + 1 noise levels to use instead of those that steps and shift give.
    boundary: noise level at which the low-noise expert takes over; None for one expert.
    """

    steps: int
    shift: float
    guidance_scale: float | None = None
    low_noise_guidance_scale: float | None = None
    boundary: float | None = None
    solver: SolverName = "unipc"
    seed: int = 0
    sigmas: Sequence[float] | None = None
    guidance: GuidanceSettings = field(default_factory=GuidanceSettings)
    phases: Sequence[PhaseSettings] | None = None

    def __post_init__(self) -> None:
        self._check_phases()
        self._check_kinds()
        if not 0 <= whole("seed", self.seed, "it must be a whole number in 0 .. 2**64 - 1.") < 2**64:
            raise RequestError(f"seed is {self.seed}: it must lie in 0 .. 2**64 - 1.")
        if self.low_noise_guidance_scale is not None and self.boundary is None:
            raise RequestError(
                f"low_noise_guidance_scale is {self.low_noise_guidance_scale:g} and there is no boundary, so no low-noise expert "
                "works. Leave it out, or give the boundary of the two experts (Wan 2.2: T2V 0.875, I2V 0.9)."
            )
        if self.sigmas is not None and len(self.sigmas) != self.steps + 1:
            raise RequestError(
                f"{len(self.sigmas)} sigmas were given for {counted(self.steps, 'step')}; it must be one more than steps, the "
                f"last one being where to stop. Set steps to {len(self.sigmas) - 1}."
            )

    @property
    def levels(self) -> tuple[float, ...]:
        """The noise levels, steps + 1."""
        return shifted_sigmas(self.steps, self.shift) if self.sigmas is None else tuple(self.sigmas)

    @property
    def settings(self) -> tuple[PhaseSettings, ...]:
        """The phases, in whichever way they were asked for."""
        if self.guidance_scale is None:
            return tuple(self.phases or ())
        return by_boundary(self.guidance_scale, self.low_noise_guidance_scale, self.boundary)

    def _check_phases(self) -> None:
        """One way of asking, and not half of the other."""
        if self.phases is None:
            if self.guidance_scale is None:
                raise RequestError("There is neither a guidance_scale nor phases: give one of them. Guidance scale 1 is off.")
            return
        names = ("guidance_scale", "low_noise_guidance_scale", "boundary")
        both = [f"{name} is {getattr(self, name)!r:.80}" for name in names if getattr(self, name) is not None]
        if both:
            raise RequestError(
                f"phases are given and {' and '.join(both)}: each phase has its own guidance scale and noise levels. Leave out "
                "the phases or all of the others."
            )
        put(self, phases=check_phases(self.phases))

    def _check_kinds(self) -> None:
        one_of("solver", self.solver, get_args(SolverName))
        for name in ("guidance_scale", "low_noise_guidance_scale"):
            scale = getattr(self, name)
            if scale is not None:
                number(name, scale, GUIDANCE_SCALE)
        if self.sigmas is not None:
            check_sigmas(self.sigmas)
        check_steps(self.steps)
        check_shift(self.shift)
        if self.boundary is not None:
            check_boundary(self.boundary)
        of_kind("guidance", self.guidance, GuidanceSettings, "give GuidanceSettings(...).")

    def plan(self) -> Schedule:
        if self.guidance_scale is None:
            return plan_phases(self.levels, self.settings)
        return plan(self.levels, self.guidance_scale, self.low_noise_guidance_scale, self.boundary)

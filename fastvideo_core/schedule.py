"""Which noise levels a generation visits, and which expert and guidance scale each step has.

`Schedule` is the one source for expert switch, guidance, cache length and offload point. It knows nothing of models.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from numbers import Real
from types import MappingProxyType

from torch import Tensor

from .checks import ROUNDING, is_one, number, of_kind, put, settled, whole
from .errors import RequestError
from .words import counted

SHIFT = "it must be a positive number (Wan uses 3 to 12)."
BOUNDARY = "it must lie between 0 and 1 (Wan 2.2: T2V 0.875, I2V 0.9)."
GUIDANCE_SCALE = "it must be a finite number (1 is off, Wan uses 3 to 6)."
UNTIL = "it is the noise level down to which the phase works, from 0 to below 1."
TIMESTEPS = 1000
"""Wan is trained on t = 1000 * sigma (Wan-Video/Wan2.1, wan/configs/shared_config.py, num_train_timesteps)."""


def shift_sigma(sigma: float, shift: float) -> float:
    """Moves a noise level towards noise: s*sigma / (1 + (s-1)*sigma) (Esser et al. 2024, arXiv 2403.03206, eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def at_least(level: float, other: float) -> bool:
    """level >= other, where levels that differ by rounding are equal."""
    return level * (1 + ROUNDING) >= other


def shifted_sigmas(steps: int, shift: float) -> tuple[float, ...]:
    """Wan's official noise levels: linspace(1, 0, steps + 1), shifted (Wan2.1, wan/utils/fm_solvers.py,
    get_sampling_sigmas). ComfyUI's `simple` scheduler gives the same where `steps` divides 1000.

    Returns: steps + 1 values from 1 down to 0.
    """
    check_steps(steps)
    check_shift(shift)
    return tuple(shift_sigma(1 - i / steps, shift) for i in range(steps + 1))


def check_steps(steps: int) -> None:
    whole("steps", steps, "a generation needs at least 1 step, and whole ones.", least=1)


def check_shift(shift: float) -> None:
    if number("shift", shift, SHIFT) <= 0:
        raise RequestError(f"shift is {shift}: {SHIFT}")


def check_boundary(boundary: float) -> None:
    if not 0 < number("boundary", boundary, BOUNDARY) < 1:
        raise RequestError(f"boundary is {boundary}: {BOUNDARY}")


@dataclass(frozen=True, kw_only=True)
class PhaseSettings:
    """What one phase of a generation shall be. Phases are given from noise to video.

    expert: the name of its network; one may have several phases.
    until: noise level down to which (inclusive) it works; 0 in the last one. A step is the first phase's, in order, that works at
        the level on which it begins.
    loras: name of an applied LoRA -> its strength in this phase; all others act as they were applied.
    """

    expert: str
    guidance_scale: float
    until: float = 0.0
    loras: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    def __post_init__(self) -> None:
        of_kind("expert", self.expert, str, "give the name of one of the model's transformers.")
        scale, until = number("guidance_scale", self.guidance_scale, GUIDANCE_SCALE), number("until", self.until, UNTIL)
        if not 0 <= until < 1:
            raise RequestError(f"until is {until}: {UNTIL}")
        of_kind("loras", self.loras, Mapping, "give {name of an applied LoRA: its strength in this phase}.")
        strengths = {
            name: number(f"The strength of LoRA {name}", value, "a finite number.") for name, value in self.loras.items()
        }
        put(self, guidance_scale=scale, until=until, loras=MappingProxyType(strengths))


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Steps in a row that have all in common: expert, guidance scale, the strengths of LoRAs."""

    expert: str
    start: int
    stop: int
    guidance_scale: float
    loras: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    @property
    def steps(self) -> range:
        return range(self.start, self.stop)

    @property
    def guided(self) -> bool:
        """Guidance is on or off per phase; at scale 1 the negative branch cancels out."""
        return not is_one(self.guidance_scale)


@dataclass(frozen=True)
class Schedule:
    """Noise levels (steps + 1 values, strictly decreasing) and the phases that cover every step once.

    part_of: where it is a part of a run from pure noise to the video, how many steps of this size that has; see `within`.
    """

    sigmas: tuple[float, ...]
    phases: tuple[Phase, ...]
    part_of: float | None = None

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def whole_steps(self) -> float:
        """Of the run that it is, or is a part of."""
        return self.steps if self.part_of is None else self.part_of

    def within(self, shift: float) -> "Schedule":
        """The same, as what it is of a run with this shift: chained samplers run one part each."""
        first, last = (level / (shift - (shift - 1) * level) for level in (self.sigmas[0], self.sigmas[-1]))
        return self if at_least(first - last, 1.0) else replace(self, part_of=self.steps / (first - last))

    def timestep(self, step: int) -> float:
        """What the transformer is told: 1000 * sigma, never truncated to an integer."""
        return self.sigmas[step] * TIMESTEPS

    def phase_of(self, step: int) -> Phase:
        return next(phase for phase in self.phases if step in phase.steps)

    def step_at(self, sigma: float) -> int:
        """The step whose interval holds `sigma`, a level counting for its own step; second-order solvers also ask between
        two levels."""
        reached = [i for i, level in enumerate(self.sigmas[:-1]) if at_least(level, sigma)]
        return reached[-1] if reached else 0


def check_sigmas(sigmas: Sequence[float]) -> tuple[float, ...]:
    """Accepts given noise levels: at least two, in 0..1 (core's own schedulers give 1.0000001 at many shifts: that is 1),
    strictly decreasing by more than rounding."""
    if not isinstance(sigmas, Iterable) or isinstance(sigmas, str):
        raise RequestError(f"sigmas is {sigmas!r:.80}: give noise levels, such as (1.0, 0.5, 0.0).")
    given = [float(sigma) if isinstance(sigma, Real | Tensor) else math.nan for sigma in sigmas]
    levels = tuple(settled(level) for level in given)
    if len(levels) < 2:
        raise RequestError(f"{len(levels)} sigmas were given: at least 2 are needed, the last one being where to stop.")
    if any(math.isnan(level) for level in levels):
        raise RequestError(f"The sigmas run from {given[0]:g} to {given[-1]:g}: Wan's noise levels lie in 0..1.")
    wrong = [(before, after) for before, after in pairwise(levels) if at_least(after, before)]
    if wrong:
        before, after = wrong[0]
        raise RequestError(
            f"The sigmas must strictly decrease: {before:.9g} is followed by {after:.9g}, which is the same level or a "
            f"higher one (nearer than {ROUNDING:g} of their size, levels are one). Leave one of them out."
        )
    return levels


def plan(
    sigmas: Sequence[float],
    guidance_scale: float,
    low_noise_guidance_scale: float | None = None,
    boundary: float | None = None,
    *,
    partial: bool = False,
) -> Schedule:
    """Cuts a generation into phases.

    Args:
        sigmas: steps + 1 noise levels, decreasing.
        guidance_scale: of the single expert, or of the high-noise expert.
        low_noise_guidance_scale: of the low-noise expert; the same as `guidance_scale` when None.
        boundary: noise level from which (inclusive) upwards the high-noise expert works; None for one expert.
            Wan2.2 states it as a ratio of the 1000 timesteps, which is this noise level.
        partial: whether other samplers run the other noise levels, so that these may all be one expert's.
    """
    levels = check_sigmas(sigmas)
    if boundary is not None:
        check_boundary(boundary)
    schedule = plan_phases(levels, by_boundary(guidance_scale, low_noise_guidance_scale, boundary), partial=True)
    if boundary is not None and len(schedule.phases) < 2 and not partial:
        idle = "low-noise" if schedule.phases[0].expert == "high_noise" else "high-noise"
        raise RequestError(
            f"With {counted(schedule.steps, 'step')} from sigma {levels[0]:.3f} to {levels[-2]:.3f} and boundary {boundary:g} "
            f"the {idle} expert has no step. Use more steps, another shift or boundary, or connect one expert only."
        )
    return schedule


def by_boundary(
    guidance_scale: float, low_noise_guidance_scale: float | None, boundary: float | None
) -> tuple[PhaseSettings, ...]:
    """The phases of one expert, or of two that change at a boundary; arguments as in `plan`."""
    if boundary is None:
        return (PhaseSettings(expert="single", guidance_scale=guidance_scale),)
    low_scale = guidance_scale if low_noise_guidance_scale is None else low_noise_guidance_scale
    return (
        PhaseSettings(expert="high_noise", guidance_scale=guidance_scale, until=boundary),
        PhaseSettings(expert="low_noise", guidance_scale=low_scale),
    )


def plan_phases(sigmas: Sequence[float], phases: Sequence[PhaseSettings], *, partial: bool = False) -> Schedule:
    """Cuts a generation into phases.

    Args:
        sigmas: steps + 1 noise levels, decreasing.
        phases: from noise to video.
        partial: whether other samplers run the other noise levels: phases without a step are then left out.

    Raises:
        RequestError: levels or phases are not in order, or a phase has no step.
    """
    levels, settings = check_sigmas(sigmas), check_phases(phases)
    working = [next(i for i, part in enumerate(settings) if at_least(level, part.until)) for level in levels[:-1]]
    idle = sorted(set(range(len(settings))) - set(working))
    if idle and not partial:
        raise RequestError(_without_steps(levels[:-1], settings, idle[0]))
    planned = []
    for index, group in groupby(range(len(working)), key=working.__getitem__):
        steps, part = list(group), settings[index]
        planned.append(
            Phase(expert=part.expert, start=steps[0], stop=steps[-1] + 1, guidance_scale=part.guidance_scale, loras=part.loras)
        )
    return Schedule(levels, tuple(planned))


def check_phases(phases: Sequence[PhaseSettings]) -> tuple[PhaseSettings, ...]:
    """Accepts phases whose noise levels strictly decrease to 0."""
    if not isinstance(phases, Sequence) or not phases or not all(isinstance(part, PhaseSettings) for part in phases):
        raise RequestError(f"phases is {phases!r:.80}: give one PhaseSettings(...) or more, from noise to video.")
    untils = [part.until for part in phases]
    for number_, (before, after) in enumerate(pairwise(untils), start=2):
        if at_least(after, before):
            raise RequestError(
                f"Phase {number_ - 1} works until noise level {before:g} and phase {number_} until {after:g}: each phase goes on "
                "below the one before. Give them from noise to video, each with a lower until."
            )
    if untils[-1] > 0:
        raise RequestError(f"The last phase works until noise level {untils[-1]:g}, and none below. Set its until to 0.")
    return tuple(phases)


def _without_steps(levels: Sequence[float], phases: Sequence[PhaseSettings], index: int) -> str:
    """levels: on which the steps begin."""
    top, until = phases[index - 1].until if index else 1.0, phases[index].until
    near = [f"{level:.4g}" for level in (*[x for x in levels if at_least(x, top)][-1:], *[x for x in levels if x < until][:1])]
    return (
        f"Phase {index + 1} of {len(phases)} ({phases[index].expert} from noise level {top:g} to {until:g}) has no step: the "
        f"{len(levels)} steps begin on {levels[0]:.4g} to {levels[-1]:.4g}, next to it on {' and '.join(near)}. Move its "
        "until or that of the phase before, use more steps or another shift, or leave the phase out."
    )


def cut(sigmas: Sequence[float], start: int, stop: int, leftover_noise: bool) -> tuple[float, ...]:
    """The noise levels of the steps from `start` to before `stop`, as ComfyUI's KSampler (Advanced) takes them.

    Args:
        stop: beyond the last step for all.
        leftover_noise: whether what lies behind `stop` is another sampler's work; otherwise the last step goes to 0.
    """
    levels, steps = check_sigmas(sigmas), len(sigmas) - 1
    if start >= min(stop, steps):
        raise RequestError(
            f"start_at_step is {start} and end_at_step {stop}, of {steps} steps from 0 to {steps - 1}: no step is left. Set "
            "start_at_step below both, or leave this sampler out."
        )
    part = levels[start : stop + 1]
    return part if stop >= steps or leftover_noise else (*part[:-1], 0.0)


def plan_part(sigmas: Sequence[float], guidance_scale: float, boundary: float) -> Schedule:
    """The one phase of a sampler that runs one of two experts, as in a chain of samplers.

    Chains change experts where their samplers do, which may be before or behind the boundary: one that goes over it and leaves
    noise for another sampler is the high-noise expert's, one that ends at 0 the low-noise expert's.

    Args:
        sigmas: the noise levels of this sampler, decreasing; above 0 at the end where another one goes on.
    """
    levels = check_sigmas(sigmas)
    check_boundary(boundary)
    high = [at_least(level, boundary) for level in levels[:-1]]
    over = high[0] != high[-1]
    expert = "high_noise" if (levels[-1] > ROUNDING if over else high[0]) else "low_noise"
    phase = Phase(expert=expert, start=0, stop=len(high), guidance_scale=guidance_scale)
    return Schedule(levels, (phase,), part_of=len(high))

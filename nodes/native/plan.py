"""Which phases a guider runs, and the schedule that they give."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastvideo_core import ROUNDING, GuidanceSettings, PhaseSettings, Schedule, plan, plan_phases


@dataclass(frozen=True, kw_only=True)
class GuiderSettings:
    """phases: of all experts, also of those that have no step in a part of a run; shift: what the noise levels were made with,
    None where that is not known; partial: whether other samplers make other steps of the run."""

    phases: tuple[PhaseSettings, ...]
    guidance: GuidanceSettings
    shift: float | None = None
    partial: bool = False


def is_partial(settings: GuiderSettings, sigmas: Tensor, adds_noise: bool) -> bool:
    """Samplers that add no noise or leave some share a run with others."""
    return settings.partial or not adds_noise or bool((sigmas[-1:] > ROUNDING).any())


def native_plan(model: Any, settings: GuiderSettings, sigmas: Tensor, adds_noise: bool) -> Schedule:
    """The schedule of a run, and how much of a whole one it is."""
    partial = is_partial(settings, sigmas, adds_noise)
    levels, phases = sigmas.tolist(), settings.phases
    if [phase.expert for phase in phases] == ["high_noise", "low_noise"]:  # whose errors speak of a boundary
        high, low = phases
        schedule = plan(levels, high.guidance_scale, low.guidance_scale, high.until, partial=partial)
    else:
        schedule = plan_phases(levels, phases, partial=partial)
    return schedule.within(float(model.get_model_object("model_sampling").shift))

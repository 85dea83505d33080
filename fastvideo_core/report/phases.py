"""What the phases of a run did."""

from collections import Counter
from dataclasses import dataclass, field

from ..guidance import Guidance
from ..words import counted


@dataclass(frozen=True, kw_only=True)
class PhaseReport:
    """One phase. calls: transformer calls by their number of branches, e.g. {"2": 20} for 20 batched calls; loras: strengths in
    it that are others than those of the whole run."""

    expert: str
    steps: int
    first_sigma: float
    guidance_scale: float
    calls: dict[str, int]
    reused_negative: int
    loras: dict[str, float] = field(default_factory=dict)

    def line(self) -> str:
        """As a person reads it."""
        calls = ", ".join(f"{n} x {counted(int(size), 'branch', 'branches')}" for size, n in self.calls.items())
        gate = f"; negative branch reused in {counted(self.reused_negative, 'step')}" if self.reused_negative else ""
        loras = "".join(f"; LoRA {name} at {strength:g}" for name, strength in self.loras.items())
        name = self.expert.replace("_", "-")
        return (
            f"{name} expert: {counted(self.steps, 'step')} from sigma {self.first_sigma:.3f}, guidance scale "
            f"{self.guidance_scale:g}; calls: {calls or 'none'}{gate}{loras}"
        )


def phase_reports(guidance: Guidance) -> tuple[PhaseReport, ...]:
    """The phases of a finished (or interrupted) generation, from its account of calls."""
    reports = []
    for phase in guidance.schedule.phases:
        calls = [call for call in guidance.calls if call.step in phase.steps]
        with_negative = {call.step for call in calls if "negative" in call.branches}
        reused = len({call.step for call in calls} - with_negative) if phase.guided else 0
        sizes = Counter(str(len(call.branches)) for call in calls)
        reports.append(
            PhaseReport(
                expert=phase.expert,
                steps=len(phase.steps),
                first_sigma=guidance.schedule.sigmas[phase.start],
                guidance_scale=phase.guidance_scale,
                calls=dict(sorted(sizes.items())),
                reused_negative=reused,
                loras=dict(phase.loras),
            )
        )
    return tuple(reports)


def ran_as(guidance: Guidance) -> tuple[str, str]:
    """How the guided steps of a generation ran ("batched", "sequential", "off"), and why."""
    guided = {call.step for call in guidance.calls if "negative" in call.branches}
    if not guided:
        return "off", "no step ran the negative branch"
    joined = all(len(call.branches) == 2 for call in guidance.calls if call.step in guided)
    return "batched" if joined else "sequential", guidance.reason

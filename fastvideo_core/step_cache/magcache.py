"""MagCache's decisions (Ma et al. 2025, arXiv 2506.09045): a pure rule over a schedule and a ratio table, known before the
run.

Skipping a step reuses the residual of the last computed one. Its norm is off by |1 - product of the ratios since then|, and
the sum of this over the steps skipped in a row is the error that the threshold bounds.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ..checks import part_of
from ..errors import RequestError
from ..guidance import BOTH, Branch
from ..schedule import Phase, Schedule
from ..words import counted
from .decisions import CachePlan, Decision, PhaseDecisions, reason_to_stand_aside
from .ratios import Networks, RatioTable
from .reading import phase_ratios, row_of, served
from .settings import MagCacheSettings


@dataclass(frozen=True)
class Drift:
    """How far a branch has come since it last computed. step: where it is now."""

    step: int
    magnitude: float = 1.0
    error: float = 0.0
    skips: int = 0

    def after(self, ratio: float) -> "Drift":
        """One more step skipped."""
        magnitude = self.magnitude * ratio
        return Drift(self.step + 1, magnitude, self.error + abs(1 - magnitude), self.skips + 1)


class PhaseRule:
    """The decisions of one phase, call by call.

    All branches of a call must agree to skip: the blocks run for all of them or for none. Branches in calls of their own
    decide by themselves.
    """

    def __init__(self, phase: Phase, ratios: Mapping[Branch, Sequence[float]], settings: MagCacheSettings) -> None:
        """ratios: one per step of the phase."""
        self._phase, self._ratios, self._settings = phase, ratios, settings
        self._retained = phase.start + settings.retained_steps(phase)
        self._drifts: dict[Branch, Drift] = {}
        self._forgotten: set[Branch] = set()
        self._before: tuple[dict[Branch, Drift], set[Branch]] = {}, set()

    def withdraw(self) -> None:
        """The last call that was asked for does not come."""
        self._drifts, self._forgotten = self._before

    def decide(self, step: int, branches: tuple[Branch, ...]) -> Decision:
        """What the next call, in `step` over `branches`, does. To be asked once per call, in order."""
        self._check(branches)
        self._before = dict(self._drifts), set(self._forgotten)
        drifts = [self._drifts.get(branch) for branch in branches]
        if any(drift is not None and drift.step == step for drift in drifts):
            return Decision(step, branches, "bypass", "a second call in one step")
        reason = "other blocks than in the step before" if self._forgotten & set(branches) else self._compulsory(step, drifts)
        if not reason:
            moved = {branch: self._moved(branch) for branch in branches}
            reason = next((why for branch, drift in moved.items() if (why := self._excess(branch, drift))), "")
            if not reason:
                self._drifts.update(moved)
                error = max(drift.error for drift in moved.values())
                return Decision(step, branches, "skip", f"error {error:.4g} is below {self._settings.threshold:g}")
        self._drifts.update(dict.fromkeys(branches, Drift(step)))
        self._forgotten.difference_update(branches)
        return Decision(step, branches, "compute", reason)

    def forget(self, branch: Branch) -> None:
        """Nothing that this branch computed can be reused in its next call."""
        if self._drifts.pop(branch, None) is not None:
            self._forgotten.add(branch)

    def _check(self, branches: tuple[Branch, ...]) -> None:
        missing = [branch for branch in branches if branch not in self._ratios]
        if missing:
            raise RequestError(
                f"The ratio table says nothing about the {missing[0]} branch of the {self._phase.expert} expert. Calibrate with "
                "a guidance scale other than 1."
            )

    def _compulsory(self, step: int, drifts: Sequence[Drift | None]) -> str:
        """Why the call computes whatever the error, or nothing."""
        if step == self._phase.start:
            return "first step of the phase"
        if step < self._retained:
            return "retention"
        if any(drift is None or drift.step != step - 1 for drift in drifts):
            return "a branch did not run in the step before"
        return ""

    def _moved(self, branch: Branch) -> Drift:
        drift = self._drifts[branch]
        return drift.after(self._ratios[branch][drift.step + 1 - self._phase.start])

    def _excess(self, branch: Branch, drift: Drift) -> str:
        """Which limit the branch would pass, or nothing."""
        if drift.error >= self._settings.threshold:
            return f"{branch}: error {drift.error:.4g} reaches {self._settings.threshold:g}"
        most = self._settings.max_skips
        return f"{branch}: {counted(most, 'step')} skipped in a row" if drift.skips > most else ""


def make_rule(
    schedule: Schedule, phase: Phase, table: RatioTable, settings: MagCacheSettings, networks: Networks | None = None
) -> PhaseRule:
    """A fresh rule for one phase of one generation. networks: as for `plan_magcache`."""
    ratios = phase_ratios(table, schedule, phase, settings.mode, networks)
    measured = row_of(table, schedule, phase, networks).expert
    return PhaseRule(replace(phase, expert=measured), ratios, settings)


def plan_magcache(
    schedule: Schedule,
    table: RatioTable,
    settings: MagCacheSettings,
    joint: bool,
    gate: float = 1.0,
    networks: Networks | None = None,
    first: int = 0,
) -> CachePlan:
    """What MagCache will do in a generation, in the phases of the experts that the table serves.

    Args:
        networks: these experts, with their weights; None for all of the schedule, by name and noise level.
        joint: whether both branches run in one call (batched guidance) and so decide together.
        gate: as in `GuidanceSettings`: from this fraction of the steps only the positive branch runs.
        first: the first step to make.

    Raises:
        RequestError: the table does not fit the schedule.
    """
    aside = reason_to_stand_aside(schedule, settings.threshold)
    phases = []
    for phase in served(schedule, networks):
        calls = [call for call in _calls(phase, part_of(schedule.steps, gate), joint) if call[0] >= first]
        if aside:
            decisions = [Decision(step, branches, "compute", aside) for step, branches in calls]
        else:
            rule = make_rule(schedule, phase, table, settings, networks)
            decisions = [rule.decide(step, branches) for step, branches in calls]
        phases.append(PhaseDecisions(phase, tuple(decisions)))
    return CachePlan("MagCache", tuple(phases), aside)


def _calls(phase: Phase, gate_step: int, joint: bool) -> Iterator[tuple[int, tuple[Branch, ...]]]:
    """The calls that `Guidance` makes: behind the gate the negative branch runs in the first step of a phase only."""
    for step in phase.steps:
        if not phase.guided or (step >= gate_step and step > phase.start):
            yield step, ("positive",)
        elif joint:
            yield step, BOTH
        else:
            yield from ((step, (branch,)) for branch in BOTH)

"""What a step cache decides, call by call, and how people read it."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..guidance import BOTH, Branch
from ..report import CachePhaseReport
from ..schedule import Phase, Schedule
from ..words import counted

Action = Literal["compute", "skip", "bypass"]
"""bypass: compute and leave the cache alone."""

FEW_STEPS = 8
"""Without guidance and in so few steps a distilled model is at work: no two of its steps resemble each other."""


class Decision(NamedTuple):
    """What one transformer call does, and why."""

    step: int
    branches: tuple[Branch, ...]
    action: Action
    reason: str


@dataclass(frozen=True)
class PhaseDecisions:
    """The decisions of one phase, call by call."""

    phase: Phase
    decisions: tuple[Decision, ...]

    @property
    def branches(self) -> list[Branch]:
        """Those that run in this phase."""
        return [branch for branch in BOTH if any(branch in decision.branches for decision in self.decisions)]

    def text(self, branch: Branch) -> str:
        skipped = self.count(branch, "skip")
        return f"{self.phase.expert} {branch} {self.actions(branch)} ({skipped} of {len(self.phase.steps)} skipped)"

    def actions(self, branch: Branch) -> str:
        """One letter per step: C computed, S skipped, - where the branch does not run."""
        done = {d.step: d.action for d in self.decisions if branch in d.branches and d.action != "bypass"}
        return "".join({"compute": "C", "skip": "S"}.get(done.get(step, ""), "-") for step in self.phase.steps)

    def report(self) -> list[CachePhaseReport]:
        """One row per branch. A reason is counted without its figures."""
        return [self._branch_report(branch) for branch in self.branches]

    def _branch_report(self, branch: Branch) -> CachePhaseReport:
        mine = [decision for decision in self.decisions if branch in decision.branches]
        return CachePhaseReport(
            expert=self.phase.expert,
            first_step=self.phase.start,
            branch=branch,
            plan=self.actions(branch),
            computed=self.count(branch, "compute"),
            skipped=self.count(branch, "skip"),
            reasons=dict(Counter(_kind(decision.reason) for decision in mine if decision.action == "compute")),
        )

    def count(self, branch: Branch, action: Action) -> int:
        return sum(branch in decision.branches and decision.action == action for decision in self.decisions)


@dataclass(frozen=True)
class CachePlan:
    """What a step cache will do in a generation, or what it did. aside: why it does nothing, empty where it works."""

    cache: str
    phases: tuple[PhaseDecisions, ...]
    aside: str = ""

    def text(self) -> str:
        """As a person reads it: `high_noise positive CCCCSSCSS...` with the count of skipped steps."""
        if self.aside:
            return f"{self.cache} stands aside: {self.aside}"
        return "\n".join(part.text(branch) for part in self.phases for branch in part.branches)


def reason_to_stand_aside(schedule: Schedule, threshold: float) -> str:
    """Why a cache would only do harm, and what helps instead; nothing where it may work."""
    if threshold == 0:
        return "its threshold is 0, which is off."
    steps = round(schedule.whole_steps)  # levels that went through ComfyUI's table of 1000 tell it a hair off
    if steps <= FEW_STEPS and not any(phase.guided for phase in schedule.phases):
        return (
            f"a run of {counted(steps, 'step')} without guidance is that of a distilled model, in which no step resembles the "
            "one before. A faster attention backend and compiled blocks help instead."
        )
    return ""


def _kind(reason: str) -> str:
    """A reason without the branch and the figures, such as "error" of "positive: error 0.13 reaches 0.12", to stand behind a
    number."""
    words = reason.partition(": ")[2] or reason
    measure = words.partition(" ")[0]
    if measure.isdigit():
        return f"after {words}"
    return f"{measure} reaches the threshold" if measure in ("error", "difference") else words

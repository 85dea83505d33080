"""DBCache's decisions, as cache-dit makes them: by how far what the first blocks add has moved since the last computed step."""

from collections.abc import Callable
from dataclasses import dataclass

from ..guidance import Branch
from ..schedule import Phase, Schedule
from ..words import counted
from .dbcache_settings import DBCacheSettings
from .decisions import Action, Decision


@dataclass(frozen=True)
class Progress:
    """What a branch did. step: its last one; skips: in a row; skipped: in all."""

    step: int
    skips: int = 0
    skipped: int = 0


class DBCacheRule:
    """The decisions of one phase, call by call.

    The branches of a call have one difference and decide together; branches in calls of their own decide by themselves.
    """

    def __init__(self, schedule: Schedule, phase: Phase, settings: DBCacheSettings) -> None:
        self._phase, self._settings = phase, settings
        self._threshold = settings.threshold_in(schedule.whole_steps)
        self._warm, self._skippable = phase.start + settings.warmup(phase), settings.skippable(phase)
        self._progress: dict[Branch, Progress] = {}
        self._before: dict[Branch, Progress] = {}

    def withdraw(self) -> None:
        """The last call that was asked for does not come."""
        self._progress = self._before

    def repeats(self, step: int, branches: tuple[Branch, ...]) -> bool:
        """Whether one of the branches had a call in this step already."""
        return any(branch in self._progress and self._progress[branch].step == step for branch in branches)

    def decide(self, step: int, branches: tuple[Branch, ...], difference: Callable[[], float | None]) -> Decision:
        """What the middle blocks do in this call. To be asked once per call, in order.

        Args:
            difference: measures the relative L1 distance from the last computed step; None where there is none of this size.
        """
        self._before = dict(self._progress)
        compulsory = self._compulsory(step, branches)
        decision = Decision(step, branches, *(("compute", compulsory) if compulsory else self._measured(difference())))
        for branch in branches:
            self._advance(branch, decision)
        return decision

    def _compulsory(self, step: int, branches: tuple[Branch, ...]) -> str:
        """Why the call computes whatever the difference, or nothing."""
        if step == self._phase.start:
            return "first step of the phase"
        if step < self._warm:
            return "warmup"
        return next((reason for branch in branches if (reason := self._exhausted(branch))), "")

    def _exhausted(self, branch: Branch) -> str:
        """Which limit a further skipped step would pass, or nothing."""
        progress = self._progress.get(branch)
        if progress is None:
            return ""
        if self._skippable is not None and progress.skipped >= self._skippable:
            return f"{branch}: {counted(self._skippable, 'step')} skipped in the phase"
        most = self._settings.max_skips
        return f"{branch}: {counted(most, 'step')} skipped in a row" if most is not None and progress.skips >= most else ""

    def _measured(self, difference: float | None) -> tuple[Action, str]:
        if difference is None:
            return "compute", "nothing of this size was computed before"
        if difference < self._threshold:
            return "skip", f"difference {difference:.4g} is below {self._threshold:g}"
        return "compute", f"difference {difference:.4g} reaches {self._threshold:g}"

    def _advance(self, branch: Branch, decision: Decision) -> None:
        was = self._progress.get(branch, Progress(decision.step))
        if decision.action == "skip":
            self._progress[branch] = Progress(decision.step, was.skips + 1, was.skipped + 1)
        else:
            self._progress[branch] = Progress(decision.step, 0, was.skipped)

"""MagCache around the block loop: what the blocks add to the tokens is kept, and added again where a step is skipped."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from ..guidance import Branch
from ..schedule import Phase, Schedule
from ..wan.blocks import BlockStack
from .magcache import Decision, MagCachePlan, PhaseDecisions, PhaseRule, make_rule, plan_magcache
from .ratios import RatioTable
from .settings import MagCacheSettings


class MagCacheSession:
    """MagCache during one phase: the rule, its decisions so far, and one residual (B, L, D) per branch."""

    def __init__(self, rule: PhaseRule, on_cpu: bool = False) -> None:
        """on_cpu: whether the residuals wait in the computer's memory."""
        self.rule, self.on_cpu = rule, on_cpu
        self.decisions: list[Decision] = []
        self.peak_bytes = 0
        self._residuals: dict[Branch, Tensor] = {}
        self._next: Decision | None = None

    def begin(self, step: int, branches: tuple[Branch, ...]) -> None:
        self._next = self.rule.decide(step, branches)
        self.decisions.append(self._next)

    def wrap(self, blocks: BlockStack) -> BlockStack:
        return MagCacheStack(blocks, self)

    def take(self) -> Decision | None:
        """The decision on the call that runs now; None for one that nobody announced."""
        decision, self._next = self._next, None
        return decision

    def store(self, branches: tuple[Branch, ...], before: Tensor, after: Tensor) -> None:
        """Keeps what the blocks added. before, after: (branches * B, L, D)."""
        rows = zip(branches, before.chunk(len(branches)), after.chunk(len(branches)), strict=True)
        for branch, x, out in rows:
            residual = out - x
            self._residuals[branch] = residual.cpu() if self.on_cpu else residual
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)

    @property
    def held_bytes(self) -> int:
        """Memory of the residuals now."""
        return sum(residual.nbytes for residual in self._residuals.values())

    def apply(self, branches: tuple[Branch, ...], x: Tensor) -> Tensor:
        """x (branches * B, L, D) plus the residual of each branch."""
        out = x.clone()
        for branch, rows in zip(branches, out.chunk(len(branches)), strict=True):
            rows += self._residuals[branch].to(x.device)
        return out

    def close(self) -> None:
        """Frees the residuals."""
        self._residuals.clear()


@dataclass(frozen=True)
class MagCacheStack:
    """The blocks, run or skipped as the session decides. A call that nobody announced is another's: it just runs."""

    blocks: BlockStack
    session: MagCacheSession

    def __call__(self, x: Tensor, context: Tensor, time_mod: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        decision = self.session.take()
        if decision is not None and decision.action == "skip":
            return self.session.apply(decision.branches, x)
        out = self.blocks(x, context, time_mod, rope)
        if decision is not None and decision.action == "compute":
            self.session.store(decision.branches, x, out)
        return out


class MagCache:
    """MagCache during one generation. Afterwards `done` tells what each call did and why.

    Raises:
        RequestError: the table does not fit the schedule.
    """

    def __init__(self, schedule: Schedule, table: RatioTable, settings: MagCacheSettings) -> None:
        self.schedule, self.table, self.settings = schedule, table, settings
        self.aside = plan_magcache(schedule, table, settings, joint=True).aside
        self._sessions: dict[Phase, MagCacheSession] = {}

    @contextmanager
    def session(self, phase: Phase) -> Iterator[MagCacheSession | None]:
        if self.aside:
            yield None
            return
        rule = make_rule(self.schedule, phase, self.table, self.settings)
        session = self._sessions[phase] = MagCacheSession(rule, self.settings.residuals_on_cpu)
        try:
            yield session
        finally:
            session.close()

    @property
    def done(self) -> MagCachePlan:
        """The decisions of every phase that has begun."""
        phases = [PhaseDecisions(phase, tuple(session.decisions)) for phase, session in self._sessions.items()]
        return MagCachePlan(tuple(phases), self.aside)

    @property
    def held_bytes(self) -> int:
        """Memory of the residuals now."""
        return sum(session.held_bytes for session in self._sessions.values())

    @property
    def peak_bytes(self) -> int:
        """The most memory that residuals took."""
        return max((session.peak_bytes for session in self._sessions.values()), default=0)

"""MagCache around the block loop: what the blocks add to the tokens is kept, and added again where a step is skipped."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from ..guidance import Branch
from ..schedule import Phase, Schedule
from .decisions import CachePlan, Decision
from .magcache import PhaseRule, make_rule, plan_magcache
from .opened import OpenedSessions
from .ratios import Networks, RatioTable
from .session import BlockwiseSession
from .settings import MagCacheSettings


@dataclass(frozen=True)
class Residual:
    """What the blocks added to one branch at noise level `level`, (B, L, D). change: of it since the computed step before, whose
    noise level was `span` higher; None where there is none."""

    level: float
    value: Tensor
    change: Tensor | None = None
    span: float = 0.0

    def at(self, level: float, trend: float) -> Tensor:
        """Continued to another noise level, with `trend` of its slope: the damped trend of Gardner & McKenzie 1985,
        "Forecasting trends in time series", with one factor for any number of steps."""
        if self.change is None:
            return self.value
        return self.value + self.change * (trend * (self.level - level) / self.span)

    @property
    def nbytes(self) -> int:
        return self.value.nbytes + (0 if self.change is None else self.change.nbytes)

    def to(self, device: torch.device | str) -> "Residual":
        return replace(self, value=self.value.to(device), change=None if self.change is None else self.change.to(device))


class MagCacheSession(BlockwiseSession):
    """MagCache during one phase: the rule, its decisions so far, and the last computed residual of each branch."""

    def __init__(self, rule: PhaseRule, on_cpu: bool = False, trend: float = 0.0, levels: Sequence[float] = ()) -> None:
        """on_cpu: whether the residuals wait in the computer's memory; trend: as in `MagCacheSettings`; levels: the noise level
        of each step, which a trend needs."""
        super().__init__()
        self.rule, self.on_cpu, self.trend, self.levels = rule, on_cpu, trend, levels
        self._residuals: dict[Branch, Residual] = {}
        self._next: tuple[Decision, tuple[Branch, ...]] | None = None
        self._now: _Call | None = None

    @property
    def tokens_held(self) -> int:
        return 1 if self.on_cpu else super().tokens_held + (self.trend > 0)

    def begin(self, step: int, branches: tuple[Branch, ...]) -> None:
        decision = self.rule.decide(step, self._decides or branches)
        self._next = decision, branches
        self.decisions.append(decision)

    def withdraw(self) -> None:
        self.rule.withdraw()
        self.decisions.pop()
        self._next = self._now = None

    def block(self, index: int, count: int, x: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        if index == 0:
            self._open(x)
        call, last = self._now, index == count - 1
        if call is None:
            return run(x)
        self.asked += 1
        if call.skipped is not None:
            if last:
                self._now = None
            return call.skipped if last else x
        self.ran += 1
        out = run(x)
        if last:
            self._now = None
            if call.decision.action == "compute":
                self._store(call, out)
        return out

    def _open(self, x: Tensor) -> None:
        announced, self._next = self._next, None
        if announced is None:
            self._now = None
        elif announced[0].action == "skip":
            self._now = _Call(*announced, x, self._applied(*announced, x))
        else:
            self._now = _Call(*announced, x)

    def _store(self, call: "_Call", after: Tensor) -> None:
        """Keeps what the blocks added. after: (branches * B, L, D)."""
        count = len(call.branches)
        for branch, x, out in zip(call.branches, call.before.chunk(count), after.chunk(count), strict=True):
            residual = self._residual(call.decision.step, self._residuals.get(branch), out - x)
            self._residuals[branch] = residual.to("cpu") if self.on_cpu else residual
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)

    def _residual(self, step: int, earlier: Residual | None, value: Tensor) -> Residual:
        level = self._level(step)
        if not self.trend or earlier is None or earlier.value.shape != value.shape:
            return Residual(level, value)
        return Residual(level, value, value - earlier.value.to(value.device), earlier.level - level)

    def _level(self, step: int) -> float:
        return self.levels[step] if self.trend else 0.0

    def _applied(self, decision: Decision, branches: tuple[Branch, ...], x: Tensor) -> Tensor:
        """x (branches * B, L, D) plus the residual of each branch."""
        out, level = x.clone(), self._level(decision.step)
        for branch, rows in zip(branches, out.chunk(len(branches)), strict=True):
            rows += self._residuals[branch].to(x.device).at(level, self.trend)
        return out

    @property
    def held_bytes(self) -> int:
        """Memory of the residuals now."""
        return sum(residual.nbytes for residual in self._residuals.values())

    def forget(self, branches: Iterable[Branch]) -> None:
        for branch in branches:
            self._residuals.pop(branch, None)
            self.rule.forget(branch)

    def close(self) -> None:
        self._residuals.clear()
        self._next = self._now = None


@dataclass(frozen=True)
class _Call:
    """A call on its way through the blocks. branches: those in its batch, of the ones decided over; before: the tokens before
    the first block; skipped: those after the last one where the blocks do not run, computed at once, for a host may change
    `before` in place between the blocks."""

    decision: Decision
    branches: tuple[Branch, ...]
    before: Tensor
    skipped: Tensor | None = None


class MagCache(OpenedSessions):
    """MagCache during one generation. networks: as for `plan_magcache`.

    Raises:
        RequestError: the table does not fit the schedule.
    """

    name = "MagCache"

    def __init__(
        self, schedule: Schedule, table: RatioTable, settings: MagCacheSettings, networks: Networks | None = None
    ) -> None:
        self.schedule, self.table, self.settings, self.networks = schedule, table, settings, networks
        super().__init__(plan_magcache(schedule, table, settings, joint=True, networks=networks).aside)

    def open(self, phase: Phase) -> MagCacheSession:
        rule = make_rule(self.schedule, phase, self.table, self.settings, self.networks)
        return MagCacheSession(rule, self.settings.residuals_on_cpu, self.settings.trend, self.schedule.sigmas)

    @property
    def told(self) -> dict[str, str | float | int | bool | None]:
        return {"table": self.table.name, **asdict(self.settings)}

    def plan(self, joint: bool, gate: float = 1.0, first: int = 0) -> CachePlan:
        """What it will do; as `plan_magcache`."""
        return plan_magcache(self.schedule, self.table, self.settings, joint, gate, self.networks, first)

"""DBCache around the block loop: the first blocks run and tell how far a step has moved; where it is not far, what the middle
ones would add is continued from earlier steps."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..guidance import Branch
from ..schedule import Phase, Schedule
from .dbcache_rule import DBCacheRule
from .dbcache_settings import DBCacheSettings
from .decisions import CachePlan, Decision, reason_to_stand_aside
from .opened import OpenedSessions, PhaseSession
from .session import BlockwiseSession
from .taylorseer import continued, taylor_terms

FIRST_DERIVATIVE = 3
"""From this step of a phase on there are derivatives: cache-dit 1.5.3 takes none in the three before (TaylorSeerState)."""


@dataclass(frozen=True)
class Computed:
    """A branch's last computed step. first: what the first blocks added, (B, L, D); terms: what the middle ones added, and its
    derivatives by the step, each (B, L, D)."""

    step: int
    first: Tensor
    terms: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        return self.first.nbytes + sum(term.nbytes for term in self.terms)

    def cpu(self) -> "Computed":
        return Computed(self.step, self.first.cpu(), tuple(term.cpu() for term in self.terms))


@dataclass
class _Call:
    """A call on its way through the blocks.

    start, end: numbers of the first and of the last middle block. before: (branches * B, L, D) tokens before the blocks that
    run first, then before the middle ones. added: by the first blocks, (B, L, D) for each branch. skipped: the tokens after
    the middle blocks where these do not run.
    """

    step: int
    branches: tuple[Branch, ...]
    start: int
    end: int
    before: Tensor
    bypass: bool = False
    added: tuple[Tensor, ...] = ()
    skipped: Tensor | None = None

    def add(self, x: Tensor) -> tuple[Tensor, ...]:
        """What each branch of `x` has more than `before`."""
        count = len(self.branches)
        return tuple(after - before for after, before in zip(x.chunk(count), self.before.chunk(count), strict=True))


class DBCacheSession(BlockwiseSession):
    """DBCache during one phase: the rule, its decisions so far, and each branch's last computed step."""

    def __init__(self, schedule: Schedule, phase: Phase, settings: DBCacheSettings) -> None:
        super().__init__()
        self.phase, self.settings = phase, settings
        self._rule = DBCacheRule(schedule, phase, settings)
        self._computed: dict[Branch, Computed] = {}
        self._next: tuple[int, tuple[Branch, ...]] | None = None
        self._now: _Call | None = None
        self._decided = 0  # decisions before the announced call

    @property
    def tokens_held(self) -> int:
        """The last computed step (what the first blocks added, and the terms), and in a call the tokens before the blocks and
        what the first ones add."""
        return 2 if self.settings.residuals_on_cpu else 4 + self.settings.taylor_order

    def begin(self, step: int, branches: tuple[Branch, ...]) -> None:
        self._next, self._decided = (step, branches), len(self.decisions)

    def withdraw(self) -> None:
        if len(self.decisions) > self._decided and self.decisions.pop().action != "bypass":
            self._rule.withdraw()
        self._next = self._now = None

    def block(self, index: int, count: int, x: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        if index == 0:
            self._now = self._opened(count, x)
        call = self._now
        if call is None:
            return run(x)
        self.asked += 1
        if index == count - 1:
            self._now = None
        if index == call.start and not call.bypass:
            self._decide(call, x)
        if call.skipped is not None and call.start <= index <= call.end:
            return call.skipped if index == call.end else x
        self.ran += 1
        out = run(x)
        if index == call.end and not call.bypass:
            self._keep(call, out)
        return out

    def _opened(self, count: int, x: Tensor) -> _Call | None:
        announced, self._next = self._next, None
        if announced is None:
            return None
        first, last = self.settings.outer_blocks(count)
        call = _Call(*announced, start=first, end=count - last - 1, before=x)
        over = self._decides or call.branches
        if self._rule.repeats(call.step, over):
            call.bypass = True
            self.decisions.append(Decision(call.step, over, "bypass", "a second call in one step"))
        return call

    def _decide(self, call: _Call, x: Tensor) -> None:
        """x: (branches * B, L, D) before the middle blocks."""
        call.added = call.add(x)
        decision = self._rule.decide(call.step, self._decides or call.branches, lambda: self._difference(call))
        self.decisions.append(decision)
        call.before = x
        if decision.action == "skip":
            call.skipped = self._applied(call, x)

    def _difference(self, call: _Call) -> float | None:
        """The relative L1 distance over all branches and the rows of all ranks. The decision is the host's to make, so it waits
        for the device here: for one number per call."""
        change = size = torch.zeros((), device=call.before.device)
        for branch, added in zip(call.branches, call.added, strict=True):
            computed = self._computed.get(branch)
            if computed is None or computed.first.shape != added.shape:
                return None
            reference = computed.first.to(added.device)
            change = change + (reference - added).abs().sum(dtype=torch.float32)
            size = size + reference.abs().sum(dtype=torch.float32)
        change, size = self._sums(torch.stack([change, size]))
        return float(change / size)

    def _applied(self, call: _Call, x: Tensor) -> Tensor:
        """x (branches * B, L, D) plus what the middle blocks would add to each branch."""
        out = x.clone()
        for branch, rows in zip(call.branches, out.chunk(len(call.branches)), strict=True):
            computed = self._computed[branch]
            terms = [term.to(x.device) for term in computed.terms]
            rows += continued(terms, call.step - computed.step)
        return out

    def _keep(self, call: _Call, out: Tensor) -> None:
        """out: (branches * B, L, D) after the middle blocks."""
        order = self.settings.taylor_order if call.step - self.phase.start >= FIRST_DERIVATIVE else 0
        for branch, first, value in zip(call.branches, call.added, call.add(out), strict=True):
            earlier = self._computed.get(branch)
            if earlier is None or earlier.first.shape != first.shape:
                terms: tuple[Tensor, ...] = (value,)
            else:
                terms = taylor_terms(value, earlier.terms, call.step - earlier.step, order)
            computed = Computed(call.step, first, terms)
            self._computed[branch] = computed.cpu() if self.settings.residuals_on_cpu else computed
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)

    @property
    def held_bytes(self) -> int:
        """Memory of the residuals now."""
        return sum(computed.nbytes for computed in self._computed.values())

    def forget(self, branches: Iterable[Branch]) -> None:
        for branch in branches:
            self._computed.pop(branch, None)

    def close(self) -> None:
        self._computed.clear()
        self._next = self._now = None


class DBCache(OpenedSessions):
    """DBCache during one generation."""

    name = "DBCache"

    def __init__(self, schedule: Schedule, settings: DBCacheSettings) -> None:
        self.schedule, self.settings = schedule, settings
        self.threshold = settings.threshold_in(schedule.whole_steps)
        super().__init__(reason_to_stand_aside(schedule, self.threshold))

    def open(self, phase: Phase) -> PhaseSession:
        return DBCacheSession(self.schedule, phase, self.settings)

    @property
    def told(self) -> dict[str, str | float | int | bool | None]:
        return {**asdict(self.settings), "threshold": self.threshold}

    def plan(self, joint: bool, gate: float = 1.0, first: int = 0) -> CachePlan | None:
        """None unless it stands aside: it decides by what the first blocks add."""
        return self.done if self.aside else None

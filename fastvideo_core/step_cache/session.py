"""What a step cache is to those who run it: a session per phase, told of each call, that has a say in each block.

Diffusers' networks and ComfyUI's drive the same session; they differ in how they get between the blocks.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from torch import Tensor

from ..guidance import Branch
from ..report import CacheReport
from ..schedule import Phase
from ..wan.blocks import BlockStack
from .decisions import CachePlan, Decision

if TYPE_CHECKING:
    from torch import nn


class CacheSession(Protocol):
    """A cache during one phase."""

    @property
    def tokens_held(self) -> int:
        """How many tensors of tokens (B, L, D) it holds on the device for each branch, at most, while the blocks run."""
        ...

    def begin(self, step: int, branches: tuple[Branch, ...]) -> None:
        """Announces the next call: its step, and the branches that its batch holds, in this order and of equal size."""
        ...

    def withdraw(self) -> None:
        """The announced call did not come to its end, and others come in its place: as if it had not been announced."""
        ...

    def wrap(self, blocks: "Iterable[nn.Module]") -> BlockStack:
        """The stack that runs in place of `blocks`."""
        ...


class Sessions(Protocol):
    """What opens a session per phase of one generation."""

    def session(self, phase: Phase) -> AbstractContextManager[CacheSession | None]:
        """A fresh session, whose memory is free again afterwards, also on interrupt; None where the cache stands aside."""
        ...


class StepCache(Sessions, Protocol):
    """A cache during one generation."""

    def plan(self, joint: bool, gate: float = 1.0, first: int = 0) -> CachePlan | None:
        """What it will do; None where that follows from the video as it is made.

        Args:
            joint: whether both branches run in one call.
            gate: as in `GuidanceSettings`.
            first: the first step to make.
        """
        ...

    def report(self) -> CacheReport:
        """What it did so far."""
        ...


class Account(Protocol):
    """What a session counts. ran: how many blocks ran in the announced calls; asked: how many there were."""

    ran: int
    asked: int
    peak_bytes: int


Sums = Callable[[Tensor], Tensor]
"""Adds up (n,) values of all that have rows of the tokens: the same bits for each of them."""


def of_all_rows(values: Tensor) -> Tensor:
    """`Sums` of one that has all rows."""
    return values


class Counts(NamedTuple):
    """What a session did; see `BlockwiseSession`."""

    decisions: tuple[Decision, ...]
    ran: int
    asked: int
    peak_bytes: int


class BlockwiseSession(ABC):
    """A session that works block by block.

    decisions: one per announced call. ran: how many blocks ran in these calls; asked: how many there were.
    """

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.ran = self.asked = self.peak_bytes = 0
        self._sums: Sums = of_all_rows
        self._decides: tuple[Branch, ...] | None = None

    def share(self, sums: Sums, decides: tuple[Branch, ...] | None = None) -> None:
        """From now on it is the session of one of several ranks, and its decisions are those of all of them.

        Args:
            sums: of the ranks, each of which has some rows of the tokens, or one of the branches.
            decides: the branches over which decisions are, where a call on this rank is announced with one of them.
        """
        self._sums, self._decides = sums, decides

    @property
    def counts(self) -> Counts:
        """What it did so far."""
        return Counts(tuple(self.decisions), self.ran, self.asked, self.peak_bytes)

    def take(self, counts: Counts) -> None:
        """As if it had done what another did in its place."""
        decisions, self.ran, self.asked, self.peak_bytes = counts
        self.decisions = list(decisions)

    @property
    def tokens_held(self) -> int:
        """As in `CacheSession`: here the residual of the step before, and the tokens before the blocks."""
        return 2

    @abstractmethod
    def begin(self, step: int, branches: tuple[Branch, ...]) -> None:
        """As in `CacheSession`. A call that was not announced is another's: its blocks just run."""

    @abstractmethod
    def withdraw(self) -> None:
        """As in `CacheSession`. Blocks that ran stay counted."""

    @abstractmethod
    def block(self, index: int, count: int, x: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        """The tokens after block `index` of `count`. To be called for every block of a call, in order.

        What a host adds to the tokens between the blocks acts in calls that run; where blocks are skipped it is part of what
        is reused.

        Args:
            x: (branches * B, L, D) tokens before it.
            run: the block itself.
        """

    @abstractmethod
    def forget(self, branches: Iterable[Branch]) -> None:
        """From now on the blocks are others for these branches, as where a host leaves some out: their next call computes."""

    @abstractmethod
    def close(self) -> None:
        """Frees what is held. Decisions and counts stay."""

    def wrap(self, blocks: "Iterable[nn.Module]") -> BlockStack:
        return BlockwiseStack(tuple(blocks), self)


@dataclass(frozen=True)
class BlockwiseStack:
    """A transformer's blocks under a blockwise session."""

    blocks: "tuple[nn.Module, ...]"
    session: BlockwiseSession

    def __call__(self, x: Tensor, context: Tensor, time_mod: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        for index, block in enumerate(self.blocks):

            def run(tokens: Tensor, block: "nn.Module" = block) -> Tensor:
                out: Tensor = block(tokens, context, time_mod, rope)
                return out

            x = self.session.block(index, len(self.blocks), x, run)
        return x


def cache_report(
    plan: CachePlan, settings: Mapping[str, str | float | int | bool | None], sessions: Iterable[Account]
) -> CacheReport:
    """plan: what was decided; sessions: those of its phases."""
    sessions = list(sessions)
    return CacheReport(
        name=plan.cache,
        settings=dict(settings),
        phases=tuple(row for part in plan.phases for row in part.report()),
        aside=plan.aside,
        bypassed=sum(decision.action == "bypass" for part in plan.phases for decision in part.decisions),
        blocks_ran=sum(session.ran for session in sessions),
        blocks_asked=sum(session.asked for session in sessions),
        peak_bytes=max((session.peak_bytes for session in sessions), default=0),
    )

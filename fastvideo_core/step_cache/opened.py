"""The sessions that a step cache has opened in one generation, and what they tell of it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from ..report import CacheReport
from ..schedule import Phase
from .decisions import CachePlan, Decision, PhaseDecisions
from .session import Account, CacheSession, cache_report


class PhaseSession(CacheSession, Account, Protocol):
    """A session that is opened for a phase."""

    decisions: list[Decision]

    @property
    def held_bytes(self) -> int: ...

    def close(self) -> None: ...


class OpenedSessions(ABC):
    """One per phase; `done` tells what each call did and why. aside: why there are none; empty where the cache works."""

    name: str

    def __init__(self, aside: str) -> None:
        self.aside = aside
        self._sessions: dict[Phase, PhaseSession] = {}

    @abstractmethod
    def open(self, phase: Phase) -> PhaseSession:
        """A fresh session."""

    @property
    @abstractmethod
    def told(self) -> Mapping[str, str | float | int | bool | None]:
        """The settings, for the report."""

    @contextmanager
    def session(self, phase: Phase) -> Iterator[PhaseSession | None]:
        """As in `Sessions`."""
        if self.aside:
            yield None
            return
        session = self._sessions[phase] = self.open(phase)
        try:
            yield session
        finally:
            session.close()

    @property
    def done(self) -> CachePlan:
        """The decisions of every phase that has begun."""
        phases = [PhaseDecisions(phase, tuple(session.decisions)) for phase, session in self._sessions.items()]
        return CachePlan(self.name, tuple(phases), self.aside)

    @property
    def held_bytes(self) -> int:
        """Memory of the residuals now."""
        return sum(session.held_bytes for session in self._sessions.values())

    @property
    def peak_bytes(self) -> int:
        """The most memory that residuals took."""
        return max((session.peak_bytes for session in self._sessions.values()), default=0)

    def report(self) -> CacheReport:
        """What it did so far."""
        return cache_report(self.done, self.told, self._sessions.values())

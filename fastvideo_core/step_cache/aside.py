"""A step cache that does nothing in a generation, and says why."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from ..report import CacheReport
from ..schedule import Phase
from .decisions import CachePlan
from .session import Sessions


class Reporting(Sessions, Protocol):
    """What caches in a generation, and reports."""

    def report(self) -> CacheReport: ...


Cache = TypeVar("Cache", bound=Reporting)


@dataclass(frozen=True)
class StandingAside:
    """In the place of `cache`, for what the cache itself cannot know of, such as a model's recipe."""

    cache: Reporting
    reason: str

    @contextmanager
    def session(self, phase: Phase) -> Iterator[None]:
        """As in `Sessions`."""
        yield None

    def plan(self, joint: bool, gate: float = 1.0, first: int = 0) -> CachePlan:
        """As in `StepCache`."""
        return CachePlan(self.cache.report().name, (), self.reason)

    def report(self) -> CacheReport:
        """As in `StepCache`."""
        return replace(self.cache.report(), aside=self.reason)


def unless(reason: str, cache: Cache) -> Cache | StandingAside:
    """The cache itself where there is no reason to stand aside."""
    return StandingAside(cache, reason) if reason else cache

"""MagCache in a generation whose experts have ratio tables of their own."""

from collections.abc import Mapping

from ..schedule import Phase
from .decisions import CachePlan
from .opened import OpenedSessions
from .residuals import MagCache, MagCacheSession


class MagCaches(OpenedSessions):
    """caches: of each expert, with its table, for the same schedule."""

    name = MagCache.name

    def __init__(self, caches: Mapping[str, MagCache]) -> None:
        self.caches = caches
        super().__init__(next(iter(caches.values())).aside)

    def open(self, phase: Phase) -> MagCacheSession:
        return self.caches[phase.expert].open(phase)

    @property
    def told(self) -> dict[str, str | float | int | bool | None]:
        return {f"{expert} {name}": value for expert, cache in self.caches.items() for name, value in cache.told.items()}

    def plan(self, joint: bool, gate: float = 1.0, first: int = 0) -> CachePlan:
        """What they will do; as `plan_magcache`."""
        parts = [part for cache in self.caches.values() for part in cache.plan(joint, gate, first).phases]
        return CachePlan(self.name, tuple(sorted(parts, key=lambda part: part.phase.start)), self.aside)

"""What works around the experts of one generation: other attention, step caches, compiled blocks."""

from collections.abc import Collection
from contextlib import AbstractContextManager

from .generate import Experts


class AroundExperts:
    """Experts that are those of `experts` in all but what they are in a phase, `active`."""

    experts: Experts

    @property
    def names(self) -> Collection[str]:
        return self.experts.names

    def loaded(self, expert: str) -> AbstractContextManager[object]:
        return self.experts.loaded(expert)

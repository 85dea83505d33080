"""One of the workers by itself, for a network that no other shares: whole videos are made so, one on each worker."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from fastvideo_core.parallel import Group, Layout

OFFLOAD = "offload"


def nothing() -> None:
    """Is wrong."""


class Turn:
    """Whose it is among threads. ComfyUI's own code is for one thread: a video's loop has the turn, but for the time in which its
    worker computes."""

    def __init__(self) -> None:
        self._lock = Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Of whoever has it."""
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()


class SharedGroup(Group):
    """Ranks that one of several threads asks. turn: where there are several; check: raises where the video at work shall end."""

    turn: Turn | None = None
    check: Callable[[], None] = staticmethod(nothing)

    def ask(
        self,
        method: str,
        given: Sequence[Sequence[object]],
        interrupted: Callable[[], None] = nothing,
        *,
        stoppable: bool = False,
    ) -> list[Any]:
        if self.turn is None:
            return super().ask(method, given, interrupted, stoppable=stoppable)
        if method == OFFLOAD:  # another model wants memory, and the network would be read again for the very next step
            return []

        def look() -> None:
            interrupted()
            if stoppable:
                self.check()

        with self.turn.lent():
            return super().ask(method, given, look, stoppable=stoppable)

    @contextmanager
    def at_work(self, turn: Turn, check: Callable[[], None]) -> Iterator[None]:
        """For one video."""
        self.turn, self.check = turn, check
        try:
            yield
        finally:
            self.turn, self.check = None, nothing


class OneWorker:
    """As `NativeWorkers`. copies: what it has of models on workers, by those."""

    def __init__(self, title: str, ranks: SharedGroup) -> None:
        self.name, self.ranks = title, ranks
        self.copies: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def layout(self, heads: int) -> Layout:
        return Layout()

    def group(self, layout: Layout) -> SharedGroup:
        return self.ranks

    def running(self, layout: Layout) -> SharedGroup | None:
        return self.ranks if self.ranks.running else None

    def title(self, layout: Layout) -> str:
        return self.name

"""Ranks as their parent sees them: asked together, stopped together, and gone together where one of them fails."""

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import CapacityError, FastVideoError, StoppedError, WorkerError

LOOK_SECONDS = 0.05
"""How often it is asked whether somebody wants an end."""
GRACE_SECONDS = 10.0
"""So long others may go on where one rank refused, or all were stopped, before they are taken for stuck: two blocks of a large
network take seconds."""


def nobody() -> None:
    """Wants an end."""


class Rank(Protocol):
    """A process that has what it is asked for, on this machine or another."""

    @property
    def name(self) -> str:
        """Which it is and, once it has answered, where."""
        ...

    def begin(self) -> "Future[Any]":
        """It is started; afterwards it can be asked. Failures as of `ask`."""
        ...

    def ask(self, number: int, method: str, given: Sequence[object]) -> "Future[Any]":
        """Asks for `method(*given)`, and does not wait. Failures are `FastVideoError`s: a `WorkerError` where the process is gone
        or failed in a way that nobody foresaw, and what the method refused with."""
        ...

    def stop(self, number: int) -> None:
        """What was asked under this number shall end before the next block; it raises `StoppedError` there."""
        ...

    def end(self) -> None:
        """The process is gone, at once."""
        ...


@dataclass(frozen=True)
class _Asked:
    """What all ranks do again, in this order, where they are started again. given: of each rank."""

    method: str
    given: Sequence[Sequence[object]]


class Group:
    """The ranks of one layout. They are started when they are first asked, and again after a failure of one of them, for then
    none of them is left: processes that wait for each other's tensors cannot go on without one.

    What they were told by `ask` alone they know since they were started last.
    """

    def __init__(self, start: Callable[[], Sequence[Rank]]) -> None:
        """start: makes ranks that have not begun; none is left where it raises."""
        self._start = start
        self._ranks: Sequence[Rank] = ()
        self._prepared: list[_Asked] = []
        self._number = 0

    def prepare(self, method: str, given: Sequence[Sequence[object]], interrupted: Callable[[], None] = nobody) -> list[Any]:
        """As `ask`, and again whenever they are started."""
        answers = self.ask(method, given, interrupted)
        self._prepared.append(_Asked(method, given))
        return answers

    def ask(
        self,
        method: str,
        given: Sequence[Sequence[object]],
        interrupted: Callable[[], None] = nobody,
        *,
        stoppable: bool = False,
    ) -> list[Any]:
        """`method(*given[rank])` of each rank at once; their answers, in the order of the ranks.

        Args:
            interrupted: looked at meanwhile; what it raises ends all.
            stoppable: whether the method looks for an end before each block. Ranks that do not are gone after an interrupt.

        Raises:
            WorkerError: a rank is gone, or failed. None of them is left.
            FastVideoError: what they refused with.
        """
        ranks = self._started(interrupted)
        return self._answers(ranks, method, given, interrupted, stoppable)

    @property
    def running(self) -> bool:
        """Whether they are there: not before they are first asked, nor after one of them failed."""
        return bool(self._ranks)

    def names(self) -> list[str]:
        """Of those that run."""
        return [rank.name for rank in self._ranks]

    def end(self) -> None:
        """No rank is left. They are started again when they are asked again."""
        ranks, self._ranks = self._ranks, ()
        for rank in ranks:
            rank.end()

    def _started(self, interrupted: Callable[[], None]) -> Sequence[Rank]:
        if self._ranks:
            return self._ranks
        self._ranks = self._start()
        try:
            _wait([rank.begin() for rank in self._ranks], interrupted)
            for asked in self._prepared:
                self._answers(self._ranks, asked.method, asked.given, interrupted, False)
        except BaseException:
            self.end()
            raise
        return self._ranks

    def _answers(
        self,
        ranks: Sequence[Rank],
        method: str,
        given: Sequence[Sequence[object]],
        interrupted: Callable[[], None],
        stoppable: bool,
    ) -> list[Any]:
        self._number += 1
        answers: list[Future[Any]] = []
        try:
            for rank, each in zip(ranks, given, strict=True):
                answers.append(rank.ask(self._number, method, each))
            _wait(answers, interrupted)
        except BaseException as error:
            failed = [rank for rank, answer in zip(ranks, answers, strict=False) if answer.done() and answer.exception() is error]
            if len(answers) < len(ranks):  # some would wait for the others
                self.end()
            elif not failed:
                self._stop(ranks, answers, stoppable)
            elif isinstance(error, WorkerError):
                self.end()
            elif isinstance(error, FastVideoError) and self._alone(answers, error):
                raise _named(failed[0], error) from error
            raise
        return [answer.result() for answer in answers]

    def _alone(self, answers: Sequence["Future[Any]"], error: FastVideoError) -> bool:
        """Whether one rank raised this and others did not. Those would wait for it for ever: none of them is left.

        What a rank refuses all of them refuse, each by itself, for they are asked the same. Memory is a rank's own: where one has
        none left, others are in the midst of something, or left it elsewhere.
        """
        if len(answers) == 1:
            return False
        alike = not isinstance(error, CapacityError) and _settled(answers)
        if not alike:
            self.end()
        return not alike or any(type(answer.exception()) is not type(error) for answer in answers)

    def _stop(self, ranks: Sequence[Rank], answers: Sequence["Future[Any]"], stoppable: bool) -> None:
        """No rank works any more, or none is left."""
        well = False
        try:
            if stoppable:
                for rank in ranks:
                    rank.stop(self._number)
                well = _settled(answers) and not any(isinstance(answer.exception(), WorkerError) for answer in answers)
        finally:
            if not well:
                self.end()


def _wait(answers: Sequence["Future[Any]"], interrupted: Callable[[], None]) -> None:
    """For all of them. Raises what the first of them that failed failed with."""
    waiting: Collection[Future[Any]] = answers
    while waiting:
        done, waiting = wait(waiting, LOOK_SECONDS, FIRST_COMPLETED)
        for answer in done:
            answer.result()
        interrupted()


def _named(rank: Rank, error: FastVideoError) -> FastVideoError:
    """As that rank's own."""
    return type(error)(f"{rank.name[:1].upper()}{rank.name[1:]}: {error}")


def _settled(answers: Sequence["Future[Any]"]) -> bool:
    """Whether all ended in time, well or not."""
    return not wait(answers, GRACE_SECONDS).not_done


class Stop:
    """In a rank: whether what it does now shall end. A stop that comes late means nothing to what is asked next."""

    def __init__(self) -> None:
        self._now = self._stopped = 0

    def begin(self, number: int) -> None:
        self._now = number

    def stop(self, number: int) -> None:
        self._stopped = max(self._stopped, number)

    @property
    def asked(self) -> bool:
        return self._stopped >= self._now

    def check(self) -> None:
        """Raises StoppedError where it shall end."""
        if self.asked:
            raise StoppedError("The call was stopped, as its parent asked.")

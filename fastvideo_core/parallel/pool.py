"""Whole jobs on several groups of ranks: one at a time on each, results as they come."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import Full, Queue
from threading import Condition, Thread
from typing import Any

from ..errors import FastVideoError, StoppedError, WorkerError
from .group import LOOK_SECONDS, Group

TRIES = 2
"""Of a job whose worker is lost: it may be that the job is too large for any."""
AHEAD = 2
"""Steps of each worker that may wait for whoever is told of them."""


@dataclass(frozen=True)
class Progress:
    """A step of a job was made."""

    name: str
    step: Any


@dataclass(frozen=True)
class Ended:
    """A job came to its end. result: what its worker gave; error: why there is none."""

    name: str
    result: Any = None
    error: FastVideoError | None = None


Event = Progress | Ended


@dataclass
class _Task:
    """make: what the worker is given to begin with, made when its turn comes."""

    name: str
    make: Callable[[], object]
    tries: int = 0
    stopped: bool = False
    wanted: bool = False
    state: Any = None


@dataclass
class _Board:
    """What the threads of one `map` share: no thread holds the iterator itself, so that leaving it ends them. waiting: tasks that
    nobody has begun; changed: a state was asked for or given, or a task ended."""

    waiting: "deque[_Task]"
    events: "Queue[Event | BaseException]"
    changed: Condition = field(default_factory=Condition)
    closed: bool = False

    def tell(self, event: "Event | BaseException") -> None:
        """Waits while others are not heard."""
        while not self.closed:
            try:
                return self.events.put(event, timeout=LOOK_SECONDS)
            except Full:
                continue

    def check(self, task: _Task | None = None) -> None:
        """Raises StoppedError where a task shall end, or all of them."""
        if self.closed or (task is not None and task.stopped):
            raise StoppedError("It was cancelled before its end.")


class Pool:
    """Groups whose ranks have jobs: `begin(given)`, then `step()` until it is None, at last `end()`; `state()` between two steps
    and after a stop. What it asks is answered by the first rank of a group."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = groups

    def map(self, jobs: Mapping[str, Callable[[], object]]) -> "Mapped":
        """All jobs, by their names: how far they are, and how they ended, as it happens. A job whose worker is lost runs once
        more; a job that fails is told, and the others go on."""
        return Mapped(self.groups, jobs)


class Mapped(Iterator[Event]):
    """What `Pool.map` returns. Closing or leaving it ends the jobs at work within two blocks; the workers stay."""

    def __init__(self, groups: Sequence[Group], jobs: Mapping[str, Callable[[], object]]) -> None:
        self._tasks = {name: _Task(name, make) for name, make in jobs.items()}
        self._board = _Board(deque(self._tasks.values()), Queue(AHEAD * len(groups)))
        self._heard: deque[Event | BaseException] = deque()  # while a state was waited for
        self._left = set(jobs)
        serving = list(groups)[: len(jobs)]
        self._threads = [Thread(target=_serve, args=(group, self._board), daemon=True) for group in serving]
        for thread in self._threads:
            thread.start()

    def __next__(self) -> Event:
        if not self._left:
            self.close()
            raise StopIteration
        try:
            event = self._heard.popleft() if self._heard else self._board.events.get()
        except BaseException:
            self.close()
            raise
        if isinstance(event, BaseException):
            self.close()
            raise event
        if isinstance(event, Ended):
            self._left.discard(event.name)
        return event

    def cancel(self, name: str) -> None:
        """This job ends, within two blocks where it is at work; it is told as one that failed."""
        self._tasks[name].stopped = True

    def state(self, name: str) -> Any:
        """Of a job that was begun: after its last step. None before, and after its end. It waits for the step at work."""
        task, board = self._tasks[name], self._board
        with board.changed:
            if task.tries and name in self._left and not board.closed:
                task.wanted = True
                while task.wanted and not self._hear(name) and any(thread.is_alive() for thread in self._threads):
                    board.changed.wait(LOOK_SECONDS)
            return task.state

    def _hear(self, name: str) -> bool:
        """Makes room for what is told, for who has the state may wait until it is heard. Whether the job has ended meanwhile."""
        while not self._board.events.empty():
            self._heard.append(self._board.events.get())
        return any(isinstance(event, Ended) and event.name == name for event in self._heard)

    def close(self) -> None:
        """No job is at work any more."""
        self._board.closed = True
        for thread in self._threads:
            thread.join()

    def __del__(self) -> None:
        self._board.closed = True


def _serve(group: Group, board: _Board) -> None:
    """One worker's thread."""
    try:
        while not board.closed and board.waiting:
            try:
                task = board.waiting.popleft()
            except IndexError:  # another was faster
                return
            ended = _run(group, task, board)
            with board.changed:
                task.wanted = False
                board.changed.notify_all()
            if ended is not None:
                board.tell(ended)
    except BaseException as error:
        board.tell(error)
        raise


def _run(group: Group, task: _Task, board: _Board) -> Ended | None:
    """None where its worker was lost, and it waits again."""
    task.tries += 1
    try:
        board.check(task)
        group.ask("begin", [(task.make(),)], board.check)
        while (step := group.ask("step", [()], partial(board.check, task), stoppable=True)[0]) is not None:
            board.tell(Progress(task.name, step))
            if task.wanted:
                _give_state(group, task, board)
        return Ended(task.name, group.ask("end", [()])[0])
    except StoppedError as error:
        _give_state(group, task, board)
        return Ended(task.name, error=error)
    except WorkerError as error:
        if task.tries < TRIES:
            board.waiting.append(task)
            return None
        return Ended(task.name, error=error)
    except FastVideoError as error:
        return Ended(task.name, error=error)


def _give_state(group: Group, task: _Task, board: _Board) -> None:
    """To whoever wants it, now or after a stop. What is not finite, or gone with its worker, is none."""
    if group.running:
        try:
            (task.state,) = group.ask("state", [()])
        except FastVideoError:
            task.state = None
    with board.changed:
        task.wanted = False
        board.changed.notify_all()

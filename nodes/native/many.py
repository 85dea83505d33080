"""Many videos on the same MODELs: one after another where those are here, one on each worker where they are in workers."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, Queue
from typing import Any

import comfy.model_management
import torch

from fastvideo_core import FastVideoError, LoadError, RequestError, StoppedError, WorkerError

from .marks import NO_MARKS, Marks
from .one_worker import OneWorker, Turn
from .queue import QueuedRun, keeping, make_turn, sample_queue
from .remote_network import remote_of
from .remote_part import as_remote_model

TRIES = 2
"""Of a video whose worker is lost: it may be that it is too large for any."""
LOOK_SECONDS = 0.05
"""How often it is asked whether ComfyUI was interrupted."""


class ManyRuns:
    """Videos, of which some may be cancelled."""

    def __init__(self, runs: Sequence[QueuedRun]) -> None:
        self.runs, self._cancelled = runs, set[QueuedRun]()

    def cancel(self, number: int) -> None:
        """That run, counted from 0, ends before its next step or block; the others go on."""
        self._cancelled.add(self.runs[number])

    def check(self, run: QueuedRun) -> None:
        """Raises StoppedError where it was cancelled."""
        if run in self._cancelled:
            raise StoppedError("It was cancelled before its end.")


def sample_many(experts: Mapping[str, Any], many: ManyRuns, marks: Marks = NO_MARKS) -> Iterator[QueuedRun]:
    """Each run as it ends, with its video or its error. All have the same phases. Whoever gets one and is slow with it makes the
    others wait.

    Args:
        experts: MODELs by the names of the phases' experts; all here, or all on the same workers.

    Raises:
        RequestError: they are not, or as of `sample_queue`.
    """
    remotes = [remote_of(model) for model in experts.values()]
    workers = {remote.workers for remote in remotes if remote is not None}
    if not workers:
        return sample_queue(experts, many.runs, marks)
    if len(workers) > 1 or None in remotes:
        raise RequestError(
            "The models of the phases are not all on the same workers: load each with FastVideo Load Model On Workers, and give "
            "them one FastVideo Workers."
        )
    many.runs[0].request.plan()
    (where,) = workers
    return _sampled(where.singly()[: len(many.runs)], experts, many, marks)


@dataclass
class _Board:
    """What the threads share, one for each worker. They look into it while they have the turn."""

    many: ManyRuns
    waiting: "deque[QueuedRun]"
    ended: "Queue[QueuedRun | Future[None]]" = field(default_factory=Queue)
    turn: Turn = field(default_factory=Turn)
    tries: "Counter[QueuedRun]" = field(default_factory=Counter)
    closed: bool = False

    def check(self, run: QueuedRun) -> None:
        """Raises StoppedError where it shall end."""
        if self.closed:
            raise StoppedError("All were stopped.")
        self.many.check(run)

    def next(self) -> QueuedRun:
        """Waits for it. Raises what a thread failed with, or ComfyUI's interrupt."""
        while True:
            comfy.model_management.throw_exception_if_processing_interrupted()
            try:
                event = self.ended.get(timeout=LOOK_SECONDS)
            except Empty:
                continue
            if isinstance(event, QueuedRun):
                return event
            event.result()


def _sampled(workers: Sequence[OneWorker], experts: Mapping[str, Any], many: ManyRuns, marks: Marks) -> Iterator[QueuedRun]:
    board = _Board(many, deque(many.runs))
    with keeping(many.runs), _serving(workers, experts, board, marks):
        for _ in many.runs:
            run = board.next()
            with board.turn:
                yield run


@contextmanager
def _serving(workers: Sequence[OneWorker], experts: Mapping[str, Any], board: _Board, marks: Marks) -> Iterator[None]:
    """A thread for each worker, in which ComfyUI finds the prompt that runs. Afterwards none is left."""
    with ThreadPoolExecutor(len(workers)) as threads:
        try:
            for worker in workers:
                serving = threads.submit(copy_context().run, _serve, worker, experts, board, marks)
                serving.add_done_callback(board.ended.put)
            yield
        finally:
            board.closed = True
    comfy.model_management.load_models_gpu([copy for worker in workers for copy in worker.copies.values()])


def _serve(worker: OneWorker, experts: Mapping[str, Any], board: _Board, marks: Marks) -> None:
    """One worker's thread."""
    with torch.inference_mode(), board.turn:
        while board.waiting and not board.closed:
            run = board.waiting.popleft()
            with worker.ranks.at_work(board.turn, partial(board.check, run)):
                _make(worker, experts, run, board, marks)


def _make(worker: OneWorker, experts: Mapping[str, Any], run: QueuedRun, board: _Board, marks: Marks) -> None:
    """Where the worker is lost, it waits for the next one, which goes on from the last step that was made."""
    board.tries[run] += 1
    try:
        board.check(run)
        make_turn({name: copy_on(worker, model) for name, model in experts.items()}, run, marks)
    except FastVideoError as error:
        run.error = error.with_traceback(None)
    if isinstance(run.error, WorkerError) and board.tries[run] < TRIES:
        run.error = None
        board.waiting.append(run)
    else:
        board.ended.put(run)


def copy_on(worker: OneWorker, model: Any) -> Any:
    """A MODEL on workers, with all that is attached to it, as one whose network is in this worker.

    Raises:
        LoadError: its file is another one there.
    """
    remote = remote_of(model)
    assert remote is not None
    if remote not in worker.copies:
        workers: Any = worker  # is asked as `NativeWorkers` is
        found = as_remote_model(workers, remote.path, remote.options)
        if found.remote.facts["digest"] != remote.facts["digest"]:
            raise LoadError(f"{remote.path} holds other weights for {worker.name} than for others. Every machine needs the same.")
        worker.copies[remote] = found
    there = worker.copies[remote]
    copy = model.clone(model_override=there.get_clone_model_override())
    copy.parent = there  # core's memory manager goes by it where the copy is gone
    return copy

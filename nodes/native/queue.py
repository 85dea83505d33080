"""Several generations on the same MODELs: experts outside, generations inside, so that each expert is loaded once for all."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

import torch

from fastvideo_core import FastVideoError, GenerationState, RunReport, SamplingRequest, Schedule, joined

from .marks import NO_MARKS, Marks
from .progress import ALONE, Progress
from .report import RESUMED, STOPPED
from .sample import sample
from .state import check_state_name, save_state, state_file

DIGITS = 12
"""Of a digest, in the name of a state's file."""
CANCELLED = "cancelled_queue"
"""The states' name where none is given. ComfyUI has no outputs of a node that is cancelled: what was made would be lost."""


class TurnMadeError(Exception):
    """The state that is there is of a later step."""


@dataclass(eq=False)
class QueuedRun:
    """One of the generations. save: a name, under which its states are kept as files after each turn; without one they are kept
    where the queue is cancelled. state: where it is between two of its turns, and after the last; stop_after_phase: how many
    phases there are until its turn ends, 0 for all; parts: the reports of its turns.
    """

    positive: Any
    negative: Any
    latent: dict[str, Any]
    request: SamplingRequest
    save: str = ""
    progress: Progress = ALONE
    state: GenerationState | None = None
    stop_after_phase: int = 0
    parts: list[RunReport] = field(default_factory=list)
    video: dict[str, Any] | None = None
    error: Exception | None = None
    file: Path | None = None
    keep_last: bool = field(default=True, init=False)  # a finished one is not made again where the queue is stopped

    def keep(self, state: GenerationState) -> None:
        self.state = state
        if self.save:
            self.write()

    def write(self) -> None:
        """Its state, where it was begun."""
        if self.state is not None and self.file is not None:
            save_state(self.state, self.file)

    def resumed(self, about: Mapping[str, Any], schedule: Schedule) -> GenerationState | None:
        """A file is found by all that it is a state of, the prompt among it.

        Raises:
            TurnMadeError: nothing is left of this turn. LoadError: the file cannot be read.
        """
        if self.file is None:
            digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
            self.file = state_file(f"{self.save or CANCELLED}_{digest[:DIGITS]}")
            self.state = GenerationState.load(self.file) if self.file.is_file() else None
        made = 0 if self.state is None else self.state.step
        if self.stop_after_phase and made >= schedule.phases[: self.stop_after_phase][-1].stop:
            raise TurnMadeError
        return self.state

    @property
    def report(self) -> RunReport:
        """Its own breaks are no news."""
        parts = [replace(part, notes=_news(part, first=part is self.parts[0])) for part in self.parts]
        return joined(parts)


def _news(part: RunReport, first: bool) -> tuple[str, ...]:
    return tuple(note for note in part.notes if not note.startswith(STOPPED) and (first or not note.startswith(RESUMED)))


def sample_queue(experts: Mapping[str, Any], runs: Sequence[QueuedRun], marks: Marks = NO_MARKS) -> Iterator[QueuedRun]:
    """Each run as it ends, with its video or its error. All have the same phases. What was made when the queue is cancelled is
    kept, and the same queue goes on from there; of queues without a name only the last one is.

    Args:
        experts: MODELs by the names of the phases' experts.

    Raises:
        RequestError: the request contradicts itself, or the name of the states cannot be one.
    """
    sizes = [len(list(phases)) for _, phases in groupby(runs[0].request.plan().phases, key=lambda phase: phase.expert)]
    with keeping(runs):
        for stop in accumulate(sizes):
            last = stop == sum(sizes)
            for run in [run for run in runs if run.error is None]:
                run.stop_after_phase = 0 if last else stop
                make_turn(experts, run, marks)
                if last or run.error is not None:
                    yield run


@contextmanager
def keeping(runs: Sequence[QueuedRun]) -> Iterator[None]:
    """Where it ends early, the states of those that have no files yet; otherwise none is left of those that are made.

    Raises:
        RequestError: the name of the states cannot be one.
    """
    check_state_name(runs[0].save)
    try:
        yield
    except BaseException:
        unnamed = [run for run in runs if not run.save and run.state is not None]
        for file in state_file(CANCELLED).parent.glob(f"{CANCELLED}_*") if unnamed else ():
            if file not in [run.file for run in runs]:
                file.unlink()
        for run in unnamed:
            run.write()
        raise
    for run in runs:
        if run.file is not None and run.error is None:
            run.file.unlink(missing_ok=True)


def make_turn(experts: Mapping[str, Any], run: QueuedRun, marks: Marks) -> None:
    """The next one, and leaves its video or its error in the run."""
    try:
        video, report = sample(
            experts, run.positive, run.negative, run.latent, run.request, kept=run, marks=marks, progress=run.progress
        )
    except TurnMadeError:
        return
    except (FastVideoError, torch.OutOfMemoryError) as error:
        run.error = error.with_traceback(None)  # whose frames hold tensors
        return
    run.parts.append(report)
    if not run.stop_after_phase:
        run.video = video

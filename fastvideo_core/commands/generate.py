"""Videos of one prompt or many: each expert is loaded once for all. The same command goes on with what was not finished."""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FastVideoError, NumericsError
from ..generate import Step
from ..report import RunReport
from ..state import GenerationState
from ..video_file import save_mp4
from ..wan.many import Job, ManyOutcomes, Outcome, Pooled, generate_many
from ..wan.model import WanModel
from ..wan.placement import held
from ..whole_file import whole_file
from .arguments import add_generation, add_model, condition, fps_of, load_model, request_of, size_of
from .output import output_folder
from .places import Place, place_of, weights_of
from .prompts import read_prompts
from .workers import add_workers, maker

if TYPE_CHECKING:
    from tqdm import tqdm

Tell = Callable[[str], None]
SAVE_SECONDS = 60.0
"""So much work is lost at most where the program is killed, and a step of it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_generation(parser, many=True)
    add_workers(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument(
        "--output", type=Path, default=Path("output/generate"), metavar="FOLDER", help="(default: output/generate)"
    )


def run(given: argparse.Namespace, tell: Tell) -> None:
    """Leaves a video and a report of each prompt in the output folder, named by what was asked; those that are there are not made
    again, and states of those that were begun are gone on from.

    Raises:
        FastVideoError: an argument is wrong, or some generations failed, after the others.
        OSError: the output folder cannot be written.
    """
    entries = read_prompts(given)
    model = load_model(given)
    with output_folder(given.output), maker(given, model) as making:
        queue = Queue(model, given.output, tell)
        queue.add(entries)
        queue.run(making)
    if queue.failed:
        raise FastVideoError(f"{len(queue.failed)} of {len(entries)} failed: {', '.join(queue.failed)}. Run it again for these.")


@dataclass
class Queue:
    """The generations that are to be made. failed: their names; told: what contradicts the model's recipe."""

    model: WanModel
    folder: Path
    tell: Tell
    jobs: list[Job] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def add(self, entries: Sequence[argparse.Namespace]) -> None:
        """Those that are not finished, each encoded. One that cannot run is told, and no other waits for it."""
        weights = weights_of(self.model)
        with ExitStack() as stack:
            if not any(entry.image or entry.last_image for entry in entries):  # encoders of images may need the room
                encoder = self.model.text_encoder
                stack.enter_context(held(encoder.network, encoder.device, encoder.offload_device))
            for number, entry in enumerate(entries, start=1):
                try:
                    self._add(entry, weights)
                except FastVideoError as error:
                    self._fail(f"prompt {number}", error)

    def _add(self, entry: argparse.Namespace, weights: Mapping[str, Any]) -> None:
        size, request = size_of(entry, self.model), request_of(entry, self.model, entry.seed)
        place = place_of(self.folder, entry, size, request, weights)
        if place.name in self.places:
            self.tell(f"{place.name}: is asked for more than once, and made once")
            return
        if place.report.is_file() and place.video.is_file():
            self.places[place.name] = place
            self.tell(f"{place.name}: is there")
            return
        state = GenerationState.load(place.state) if place.state.is_file() else None
        told = condition(entry, self.model, size)
        self._tell_once(self.model.generate(request, told, size).contradictions())
        self.places[place.name] = place
        self.jobs.append(Job(request=request, conditioning=told, size=size, name=place.name, state=state))

    def _tell_once(self, sentences: Sequence[str]) -> None:
        """Of many prompts that ask alike."""
        for sentence in sentences:
            if sentence not in self.told:
                self.told.append(sentence)
                self.tell(sentence)

    def run(self, making: WanModel | Pooled) -> None:
        """making: the model, or what makes its videos elsewhere."""
        from tqdm import tqdm

        left = sum(job.request.steps - (0 if job.state is None else job.state.step) for job in self.jobs)
        with tqdm(total=left, unit="step", disable=not self.jobs) as bar:
            keeper = _Keeper(self.places, bar)
            many = keeper.many = generate_many(making, self.jobs, each_step=keeper.step)
            try:
                for outcome in many:
                    with tqdm.external_write_mode():
                        self._end(outcome)
            finally:
                keeper.keep_all()

    def _end(self, outcome: Outcome) -> None:
        """Its files, the report last: what has one is finished."""
        place = self.places[outcome.name]
        if outcome.error is not None or outcome.latents is None or outcome.report is None:
            self._fail(place.name, outcome.error)
            return
        try:
            self._save(place, self.model.decode(outcome.latents)[0].transpose(0, 1), outcome.report)
        except FastVideoError as error:
            self._fail(place.name, error)
            return
        place.state.unlink(missing_ok=True)
        self.tell(f"{place.name}: {outcome.report.total_seconds:.2f} s")

    def _save(self, place: Place, frames: Any, report: RunReport) -> None:
        content = {**place.told, "report": json.loads(report.json())}
        save_mp4(frames, place.video, fps_of(self.model))
        with whole_file(place.report) as part:
            part.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def _fail(self, name: str, error: FastVideoError | None) -> None:
        self.failed.append(name)
        self.tell(f"{name}: failed: {error}")


class _Keeper:
    """Keeps states as files: after each phase, now and then, and of all that were begun where the program ends early."""

    def __init__(self, places: Mapping[str, Place], bar: "tqdm[Any]") -> None:
        self.places, self.bar = places, bar
        self.many: ManyOutcomes | None = None
        self._moved: set[str] = set()  # since they were kept
        self._kept = time.monotonic()

    def step(self, name: str, step: Step) -> None:
        self.bar.set_description(name)
        self.bar.update()
        self._moved.add(name)
        if step.index + 1 == step.phase.stop or time.monotonic() - self._kept > SAVE_SECONDS:
            self.keep_all()

    def keep_all(self) -> None:
        """Of those that moved, and have not ended."""
        assert self.many is not None
        while self._moved:
            name = self._moved.pop()
            try:
                state = self.many.state(name)
            except NumericsError:  # its outcome tells
                continue
            if state is not None:
                state.save(self.places[name].state)
        self._kept = time.monotonic()

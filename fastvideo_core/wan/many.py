"""Many generations of one `WanModel` with few loadings: experts outside, generations inside. Two experts are brought to the
device once each, for however many prompts."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ..attention.experts import AttentionSettings
from ..attention.sparse import SparseSchedule
from ..checks import of_kind
from ..conditioning import Conditioning
from ..errors import FastVideoError, RequestError
from ..generate import Step, Turn, check_experts, turns
from ..report import RunReport
from ..request import SamplingRequest, VideoSize
from ..state import GenerationState
from .compiled import CompileSettings
from .generation import Generation, NewCache
from .memory import WAYS_OUT
from .model import WanModel
from .placement import held, is_group_offloaded, room


@dataclass(frozen=True, kw_only=True)
class Job:
    """One generation of many: as for `WanModel.generate`. name: how it is called in what is told of it, its number where it is
    empty."""

    request: SamplingRequest
    conditioning: Conditioning
    size: VideoSize
    name: str = ""
    state: GenerationState | None = None

    def __post_init__(self) -> None:
        of_kind("name", self.name, str, "it is a text, by which the job is told apart.")
        of_kind("request", self.request, SamplingRequest, "give SamplingRequest(...).")
        of_kind("state", self.state, (GenerationState, type(None)), "give GenerationState(...), or None.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """How a job ended. latents: (B, C, T, H, W) on the CPU; error: why there are none, and no report."""

    name: str
    job: Job
    latents: Tensor | None = None
    report: RunReport | None = None
    error: FastVideoError | None = None


EachStep = Callable[[str, Step], object]
"""Is told of each step, with the job's name."""


class ManyOutcomes(Iterator[Outcome], ABC):
    """How many jobs ended, one after the other; closed early, what was not ended can be gone on from."""

    @abstractmethod
    def close(self) -> None:
        """Ends all jobs that have not ended."""

    @abstractmethod
    def state(self, name: str) -> GenerationState | None:
        """Of a job that was begun and has not ended: a `Job` with it goes on from there. It waits for the device.

        Raises:
            NumericsError: its latents are not finite.
        """

    @abstractmethod
    def states(self) -> dict[str, GenerationState]:
        """Of all such jobs, by their names. Raises NumericsError as `state`."""


@runtime_checkable
class Pooled(Protocol):
    """A model in several workers, each of which makes whole jobs: `Workers.pool`."""

    def many(self, jobs: Mapping[str, Job], options: Mapping[str, Any], each_step: EachStep | None) -> ManyOutcomes: ...


def generate_many(
    model: WanModel | Pooled,
    jobs: Sequence[Job],
    *,
    cache: NewCache | None = None,
    attention: AttentionSettings | None = None,
    sparse: SparseSchedule | None = None,
    compile: CompileSettings | None = None,
    each_step: EachStep | None = None,
) -> ManyOutcomes:
    """All jobs, as an iterator over how each of them ended. Each video is that of `model.generate` with the same arguments, bit
    by bit; a job that fails is an outcome with its error, and the others go on. Whatever the jobs ask for, those that need one
    expert next make their turns in one loading of it; their states between turns wait on the CPU.

    Args:
        model: one, or workers that have it (`Workers.pool`): they make whole jobs, whose outcomes come as they end.
        each_step: what it raises ends all, as an interrupt does.

    Raises:
        RequestError: these are no jobs, or two have one name.
    """
    for job in jobs:
        of_kind("Each job", job, Job, "give Job(request=..., conditioning=..., size=...).")
    names = [job.name or str(number) for number, job in enumerate(jobs, start=1)]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise RequestError(f"Two jobs are named {twice[0]!r:.80}: give each a name of its own, or none.")
    options = {"cache": cache, "attention": attention, "sparse": sparse, "compile": compile}
    named = dict(zip(names, jobs, strict=True))
    if isinstance(model, Pooled):
        return model.many(named, options, each_step)
    return ManyGenerations(model, named, options, each_step)


class ManyGenerations(ManyOutcomes):
    """What `generate_many` returns for a model. Closing it early, an interrupt, or leaving it, ends the job at work and leaves no
    weights on the device; what was not ended is then in `states()`."""

    def __init__(
        self, model: WanModel, jobs: Mapping[str, Job], options: Mapping[str, Any], each_step: EachStep | None
    ) -> None:
        self._each_step = each_step
        self._account = _Account([_Running(name, job) for name, job in jobs.items()])
        self._events = _run(model, self._account, options)

    def __next__(self) -> Outcome:
        try:
            for event in self._events:
                if isinstance(event, Outcome):
                    return event
                if self._each_step is not None:
                    self._each_step(*event)
        except BaseException:
            self.close()
            raise
        raise StopIteration

    @property
    def loadings(self) -> int:
        """How often an expert's weights were brought to the device so far, for all jobs together."""
        return self._account.loadings

    def close(self) -> None:
        self._events.close()

    def state(self, name: str) -> GenerationState | None:
        return next((running.state() for running in self._account.running if running.name == name), None)

    def states(self) -> dict[str, GenerationState]:
        states = {running.name: running.state() for running in self._account.running}
        return {name: state for name, state in states.items() if state is not None}


@dataclass
class _Running:
    """A job that has not ended. left: its turns; generation: since its first one."""

    name: str
    job: Job
    left: tuple[Turn, ...] = ()
    generation: Generation | None = None

    def state(self) -> GenerationState | None:
        return self.job.state if self.generation is None else self.generation.state()

    def plan(self, model: WanModel) -> None:
        """Raises RequestError where the request contradicts itself or the model."""
        schedule, state = self.job.request.plan(), self.job.state
        check_experts(schedule, model.transformers)
        self.left = turns(schedule, 0 if state is None else state.step)

    def turn(self, model: WanModel, options: Mapping[str, Any]) -> Iterator[Step]:
        """The steps of its next turn, or none where none is left."""
        job = self.job
        if self.generation is None:
            self.generation = model.generate(job.request, job.conditioning, job.size, **options, state=job.state)
        try:
            yield from self.generation.turn()
        except BaseException:
            self.generation.close()
            raise
        self.left = self.left[1:]

    def ended(self, others: int) -> Outcome:
        assert self.generation is not None
        report = self.generation.report()
        if others:
            note = f"{others} other generation{'s' * (others > 1)} ran beside it: each loading of an expert was for all of them"
            report = replace(report, notes=(*report.notes, note))
        return Outcome(name=self.name, job=self.job, latents=self.generation.latents.cpu(), report=report)

    def failed(self, error: FastVideoError) -> Outcome:
        return Outcome(name=self.name, job=self.job, error=_without_frames(error))


@dataclass
class _Account:
    """running: jobs that have not ended, in their order. total: how many there were."""

    running: list[_Running]
    loadings: int = 0
    total: int = field(init=False)

    def __post_init__(self) -> None:
        self.total = len(self.running)


Event = Outcome | tuple[str, Step]


def _run(model: WanModel, account: _Account, options: Mapping[str, Any]) -> Generator[Event, None, None]:
    for running in list(account.running):
        yield from _planned(model, running, account, options)
    while account.running:
        # The one that has most before it: whoever needs the same expert later than others waits for none of them.
        expert = max(account.running, key=lambda running: len(running.left)).left[0].expert
        with _held(model, expert, account):
            for running in [each for each in account.running if each.left[0].expert == expert]:
                yield from _turn(model, running, account, options)


def _planned(model: WanModel, running: _Running, account: _Account, options: Mapping[str, Any]) -> Iterator[Event]:
    """What ends without any loading: a job that cannot run, and one whose state is that after its last step."""
    try:
        running.plan(model)
    except FastVideoError as error:
        account.running.remove(running)
        yield running.failed(error)
        return
    if not running.left:
        yield from _turn(model, running, account, options)


def _turn(model: WanModel, running: _Running, account: _Account, options: Mapping[str, Any]) -> Iterator[Event]:
    outcome = None
    try:
        with room(lambda: f"The generation {running.name} does not fit into the memory of {model.device}. {WAYS_OUT}."):
            for step in running.turn(model, options):
                yield running.name, step
        if not running.left:
            outcome = running.ended(account.total - 1)
    except FastVideoError as error:
        outcome = running.failed(error)
    if outcome is not None:
        account.running.remove(running)
        yield outcome


@contextmanager
def _held(model: WanModel, expert: str, account: _Account) -> Iterator[None]:
    """The expert's weights on the device, unless it moves them itself."""
    network = model.transformers[expert]
    if is_group_offloaded(network):
        yield
        return
    with held(network, model.device, model.offload_device, WAYS_OUT):
        account.loadings += 1
        yield


def _without_frames(error: FastVideoError) -> FastVideoError:
    """What its frames hold, tensors on the device among it, is free."""
    left: BaseException | None = error
    while left is not None:
        left.__traceback__ = None
        left = left.__cause__ or left.__context__
    return error

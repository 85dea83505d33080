"""What the steps of a run cost, by kind: medians times their number, with their spread. A mean, or a sum, would count what else
the machine did meanwhile."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple, Protocol

from .cache import CacheReport
from .phases import PhaseReport

TRIMMED = 4
"""One in so many of a kind's steps is left out of the spread at each end: it is that of the middle half."""
FEW, DOUBT = 4, 0.25
"""Fewer steps than that say little of their spread: it is taken to be that share larger each way."""


class StepKind(NamedTuple):
    """Steps of one kind do the same work. letters: one per branch that ran, C computed or S skipped by a step cache."""

    expert: str
    letters: str

    @property
    def computed(self) -> "StepKind":
        """What it would have been without a cache."""
        return StepKind(self.expert, self.letters.replace("S", "C"))

    @property
    def skipped(self) -> bool:
        return "S" in self.letters


class Span(NamedTuple):
    """A figure, and between which two it lies."""

    middle: float
    low: float
    high: float

    def __add__(self, other: object) -> "Span":
        if not isinstance(other, Span):
            return NotImplemented
        return Span(self.middle + other.middle, self.low + other.low, self.high + other.high)

    def widened(self, other: "Span") -> "Span":
        """It may lie where the other one does, too."""
        return Span(self.middle, min(self.low, other.low), max(self.high, other.high))

    def times(self, count: int) -> "Span":
        return Span(self.middle * count, self.low * count, self.high * count)


class TimedStep(NamedTuple):
    """number: from 0 in the run. place: among the steps of its phase that this run made."""

    number: int
    place: int
    phase: PhaseReport
    kind: StepKind
    seconds: float

    @property
    def work(self) -> str:
        """computed, skipped, or partly where a cache skipped one branch or the gate reused it."""
        if "C" not in self.kind.letters:
            return "skipped"
        gated = self.phase.reused_negative > 0 and len(self.kind.letters) == 1
        return "partly" if self.kind.skipped or gated else "computed"


class TimedRun(Protocol):
    """What a run's steps are told apart by: a `RunReport`."""

    @property
    def phases(self) -> Sequence[PhaseReport]: ...

    @property
    def caches(self) -> Sequence[CacheReport]: ...

    @property
    def step_seconds(self) -> Sequence[float]: ...

    @property
    def first_step(self) -> int: ...


@dataclass(frozen=True)
class StepTimes:
    """The steps of one run, or of several of one sort together.

    counts: of each kind; seconds: of each of its steps, without the first of each phase where there are others: an expert's first
    step loads, warms up and may compile. late: how much longer those first steps took than the median of their kind.
    """

    counts: Mapping[StepKind, int]
    seconds: Mapping[StepKind, tuple[float, ...]]
    late: float

    @classmethod
    def of(cls, runs: Sequence[TimedRun]) -> "StepTimes":
        kinds, seconds, first = Counter[StepKind](), defaultdict[StepKind, list[float]](list), []
        for step in chain.from_iterable(map(steps_of, runs)):
            kinds[step.kind] += 1
            if step.place:
                seconds[step.kind].append(step.seconds)
            else:
                first.append((step.kind, step.seconds))
        for kind, took in first:
            if not seconds[kind]:
                seconds[kind].append(took)
        late = sum(max(0.0, took - median(seconds[kind])) for kind, took in first)
        return cls(dict(kinds), {kind: tuple(values) for kind, values in seconds.items()}, late)

    def cost(self, kind: StepKind) -> Span:
        """Seconds of one step."""
        ordered = sorted(self.seconds[kind])
        cut, doubt = len(ordered) // TRIMMED, DOUBT if len(ordered) < FEW else 0.0
        return Span(median(ordered), ordered[cut] * (1 - doubt), ordered[-1 - cut] * (1 + doubt))

    def total(self) -> Span:
        """Seconds of all steps."""
        return total((count, self.cost(kind)) for kind, count in self.counts.items())

    def saved(self) -> Span | None:
        """Seconds that step caches saved: what was skipped, at the cost of the steps of its phase that computed the same
        branches. Kinds without any to compare with count for nothing; None where none can be compared."""
        pairs = [(kind, count) for kind, count in self.counts.items() if kind.skipped and kind.computed in self.counts]
        costs = [(count, self.cost(kind.computed), self.cost(kind)) for kind, count in pairs]
        return total((n, Span(c.middle - s.middle, c.low - s.high, c.high - s.low)) for n, c, s in costs) if costs else None


def total(parts: Iterable[tuple[int, Span]]) -> Span:
    """A sum of counts times figures."""
    return sum((span.times(count) for count, span in parts), Span(0.0, 0.0, 0.0))


def median(values: Sequence[float]) -> float:
    """The upper one of the middle two; 0 of nothing."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else 0.0


def steps_of(run: TimedRun) -> Iterator[TimedStep]:
    """The steps that this run made: one that was stopped made fewer than it planned, and one that was resumed none before its
    first."""
    start, seconds = 0, iter(run.step_seconds)
    for phase in run.phases:
        before = max(0, run.first_step - start)
        took = list(islice(seconds, max(0, phase.steps - before)))
        kinds = (StepKind(phase.expert, letters) for letters in _letters(run, phase, start, len(took)))
        for place, (kind, lap) in enumerate(zip(islice(kinds, before, None), took, strict=False)):
            yield TimedStep(start + before + place, place, phase, kind, lap)
        start += phase.steps


def _letters(run: TimedRun, phase: PhaseReport, start: int, made: int) -> list[str]:
    """Of all the phase's steps. start: its first one; made: how many of them this run made."""
    plans = [row.plan for cache in run.caches for row in cache.phases if row.first_step == start]
    if plans:
        return ["".join(letters).replace("-", "") for letters in zip(*plans, strict=True)]
    branches = sum(int(size) * count for size, count in phase.calls.items())
    both = min(max(branches - made, 0), made)  # behind the gate the positive branch runs alone
    before = max(0, run.first_step - start)
    return [""] * before + ["CC"] * both + ["C"] * (phase.steps - before - both)

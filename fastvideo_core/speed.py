"""How much faster one run was than another, as far as their steps tell it apart from what else the machine did."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .report import RunReport
from .report.step_times import Span, StepTimes, total


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The reference's seconds of sampling to the candidate's: medians of each kind of step times their number, without loading
    and warm-up. ratio: by these medians; low, high: between which two it lies, by the spread of the steps."""

    ratio: float
    low: float
    high: float

    @property
    def distinguishable(self) -> bool:
        return self.low > 1 or self.high < 1

    @property
    def claimed(self) -> float | None:
        """The ratio; None where it is not distinguishable from 1."""
        return self.ratio if self.distinguishable else None

    def figures(self) -> dict[str, Any]:
        """For programs: null is not distinguishable from 1."""
        return {"speed_up": self.claimed, "speed_up_between": [self.low, self.high]}

    def text(self) -> str:
        """For people."""
        between = f"({self.low:.2f} - {self.high:.2f})"
        return f"{self.ratio:.2f} {between}" if self.distinguishable else f"not distinguishable {between}"


def speed_up(reference: RunReport, candidate: RunReport) -> Speed:
    """Of two runs that one may compare: of one model and size."""
    return speed_up_of_all([reference], [candidate])


def speed_up_of_all(references: Sequence[RunReport], candidates: Sequence[RunReport], also: Sequence[RunReport] = ()) -> Speed:
    """Of as many runs of each, of the same seeds. also: further steps of the reference's sort, begun and not ended, which tell
    how much the machine's pace changes between runs.

    Where a step that both computed is the same work in both, what it took is the machine's doing: the ratio is then reckoned by
    the candidate's own computed steps too, and lies wherever one of the two reckonings has it.
    """
    reference, candidate = StepTimes.of(references), StepTimes.of(candidates)
    dense, fast = total(_costs(reference, StepTimes.of(also))), candidate.total()
    found = Span(dense.middle / fast.middle, dense.low / fast.high, dense.high / fast.low)
    if _work(references[0]) == _work(candidates[0]) and all(kind in candidate.counts for kind in reference.counts):
        found = found.widened(_by_own_steps(reference, candidate))
    return Speed(ratio=found.middle, low=found.low, high=found.high)


def _by_own_steps(reference: StepTimes, candidate: StepTimes) -> Span:
    """What the reference's steps would have taken in the candidate's run, to what the candidate's took: a slow moment of the
    machine slows both."""
    costs = {kind: candidate.cost(kind) for kind in candidate.counts}

    def ratio(shared: int, other: int) -> float:
        dense = sum(count * costs[kind][shared] for kind, count in reference.counts.items())
        places = {kind: shared if kind in reference.counts else other for kind in candidate.counts}
        return dense / sum(count * costs[kind][places[kind]] for kind, count in candidate.counts.items())

    return Span(ratio(0, 0), ratio(1, 2), ratio(2, 1))


def _costs(times: StepTimes, also: StepTimes) -> Iterator[tuple[int, Span]]:
    for kind, count in times.counts.items():
        cost = times.cost(kind)
        yield count, cost.widened(also.cost(kind)) if kind in also.counts else cost


def _work(report: RunReport) -> tuple[object, ...]:
    """What a computed step's work depends on."""
    attention = [(part.expert, part.part, part.backend) for part in report.attention]
    sparse = [(part.expert, part.variant, part.settings) for part in report.sparse]
    return (
        report.model, report.latent_shape, report.device, report.dtype, report.guidance_mode, report.patches, report.texts,
        attention, sparse,
    )  # fmt: skip

"""What would have made a run faster, as far as its own steps tell; what that does to the video they do not."""

from collections.abc import Iterator

from ..checks import part_of
from .run import RunReport
from .step_times import StepKind, StepTimes, steps_of

GATE = 0.6
"""Of FastVideo Sampler's gate: both branches in so many of the steps."""
MANY = 8
"""More steps than that are worth a step cache, and are not a distilled model's."""
FEW = 4
"""Steps of most distilled models (`wan.recipes`)."""


def faster(report: RunReport) -> list[str]:
    """Sentences with seconds. "about" is by steps that were timed, "up to" where a bound is all that they tell: one of two
    branches in one call takes between half of it and all."""
    guided = any(phase.calls.get("2") or phase.calls.get("1", 0) > phase.steps for phase in report.phases)
    if len(report.step_seconds) <= MANY or not guided:
        return []
    return [*_gate(report), *_cache(report), *_few_steps(report)]


def _gate(report: RunReport) -> Iterator[str]:
    if any(phase.reused_negative for phase in report.phases):
        return
    times = StepTimes.of([report])
    closed = part_of(sum(phase.steps for phase in report.phases), GATE)
    saved, bound = 0.0, False
    for step in steps_of(report):
        if step.number < closed or step.place == 0 or step.kind.letters != "CC":
            continue  # the first step of a phase makes the difference that the others reuse
        alone = StepKind(step.kind.expert, "C")
        both = times.cost(step.kind).middle
        saved += both - (times.cost(alone).middle if alone in times.counts else both / 2)
        bound |= alone not in times.counts and "2" in step.phase.calls
    if saved > 0:
        yield f"a guidance gate at {GATE:g} would save {'up to' if bound else 'about'} {seconds(saved)}"


def _cache(report: RunReport) -> Iterator[str]:
    if not report.caches:
        yield f"a step cache would save up to {seconds(report.seconds_per_step)} in each step that it skips"


def _few_steps(report: RunReport) -> Iterator[str]:
    times = StepTimes.of([report])
    experts = dict.fromkeys(kind.expert for kind in times.counts)
    dearest = [max(times.cost(kind).middle for kind in times.counts if kind.expert == expert) for expert in experts]
    yield f"a few-step LoRA's {FEW} steps would take up to {seconds(FEW * sum(dearest) / len(dearest))} in all"


def seconds(value: float) -> str:
    """To two digits that count, or to the second."""
    return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s" if value >= 1 else f"{value:.2f} s"

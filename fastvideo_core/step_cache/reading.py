"""From a ratio table to the ratios of a schedule: one per step of a phase, for each branch."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

from ..errors import RequestError
from ..guidance import Branch
from ..schedule import Phase, Schedule, at_least
from .ratios import Networks, PhaseRatios, RatioTable
from .settings import MagCacheMode

SAME_SPACING = 2e-3
"""How far a noise level may lie from the table's, before the shift: ComfyUI's schedulers read levels off a table of 1000."""


def phase_ratios(
    table: RatioTable, schedule: Schedule, phase: Phase, mode: MagCacheMode, networks: Networks | None = None
) -> Mapping[Branch, tuple[float, ...]]:
    """The ratio of each step of `phase` to the step before; the first is 1, and an expert switch is never in between.

    Args:
        networks: the experts that the table serves, with their weights; None for all of the schedule, by name and noise level.

    Raises:
        RequestError: the table was measured with other experts, boundary, shift or steps than this mode allows.
    """
    check_boundary(table, schedule, networks)
    if mode != "resampled":
        check_spacing(table, schedule, mode)
    measured = row_of(table, schedule, phase, networks)
    levels = schedule.sigmas[phase.start : phase.stop]
    if mode == "resampled":
        return {branch: resampled(measured, branch, levels) for branch in measured.ratios}
    return {branch: nearest(values, len(levels)) for branch, values in measured.ratios.items()}


def row_of(table: RatioTable, schedule: Schedule, phase: Phase, networks: Networks | None = None) -> PhaseRatios:
    """Arguments as for `phase_ratios`; see `RatioTable.row`."""
    network = None if networks is None else networks[phase.expert]
    return table.row(phase.expert, schedule.sigmas[phase.start], network)


def served(schedule: Schedule, networks: Networks | None) -> tuple[Phase, ...]:
    """The phases of the experts that a table serves."""
    return tuple(phase for phase in schedule.phases if networks is None or phase.expert in networks)


def nearest(values: Sequence[float], steps: int) -> tuple[float, ...]:
    """The values of the nearest steps, halves to even, as MagCache's authors take them. The first stays 1: there is no step
    before it."""
    scale = (len(values) - 1) / (steps - 1) if steps > 1 else 0.0
    return (1.0, *(values[round(step * scale)] for step in range(1, steps)))


def resampled(phase: PhaseRatios, branch: Branch, levels: Sequence[float]) -> tuple[float, ...]:
    """The sum of the logarithms of the ratios is a function of the noise level: linear between measured levels, going on
    straight beyond them. Fewer steps get larger drops, more steps smaller ones."""
    if len(levels) == 1:
        return (1.0,)
    if len(phase.sigmas) < 2:
        raise RequestError(
            f"The ratio table has one step of the {phase.expert} expert, which says nothing about {len(levels)}. "
            "Calibrate with more steps."
        )
    heights = list(accumulate(math.log(ratio) for ratio in phase.ratios[branch]))
    logs = [_interpolated(level, phase.sigmas, heights) for level in levels]
    return (1.0, *(math.exp(after - before) for before, after in pairwise(logs)))


def _interpolated(level: float, levels: Sequence[float], heights: Sequence[float]) -> float:
    """levels fall; the height at `level` on the line through its two neighbours, or through the outermost two."""
    right = min(max(bisect_right(levels, -level, key=lambda x: -x), 1), len(levels) - 1)
    left = right - 1
    part = (levels[left] - level) / (levels[left] - levels[right])
    return heights[left] + part * (heights[right] - heights[left])


def check_boundary(table: RatioTable, schedule: Schedule, networks: Networks | None = None) -> None:
    """Raises RequestError unless the table has the experts of the schedule that it serves, and a whole one has each of their
    phases on its side of the boundary. In a chain of samplers an expert may go on beyond what was measured: its ratios go on
    straight there, which on the demo pair does as much good as elsewhere (tests/quality/limits.py)."""
    phases = served(schedule, networks)
    rows = {phase.expert: row_of(table, schedule, phase, networks) for phase in phases}
    if table.boundary is None and len(rows) > 1 and not table.weights:
        raise RequestError(
            f"The ratio table {table.name} is of one expert, the schedule has {', '.join(rows)}. Use a table of this model."
        )
    for phase in phases:
        if steps_beyond(table, schedule, phase, networks) and schedule.part_of is None:
            first, last = schedule.sigmas[phase.start], schedule.sigmas[phase.stop - 1]
            raise RequestError(
                f"The ratio table {table.name} was measured with boundary {table.boundary:g}; here the {phase.expert} expert "
                f"works from noise level {first:.4g} to {last:.4g}. Set boundary to {table.boundary:g}, or calibrate with yours."
            )


def steps_beyond(table: RatioTable, schedule: Schedule, phase: Phase, networks: Networks | None = None) -> int:
    """How many steps of a phase lie on the other side of the boundary at which its expert was measured."""
    if table.boundary is None:
        return 0
    high = row_of(table, schedule, phase, networks).expert == "high_noise"
    levels = schedule.sigmas[phase.start : phase.stop]
    return sum(at_least(level, table.boundary) != high for level in levels)


def check_spacing(table: RatioTable, schedule: Schedule, mode: MagCacheMode) -> None:
    """Raises RequestError unless the schedule has the table's shift, and for "official" its steps too."""
    if table.shift is None:
        raise RequestError(f"The ratio table {table.name} was measured without a shift: use mode resampled.")
    if schedule.part_of is not None:
        raise RequestError(
            f"MagCache's mode {mode} counts the steps of a whole schedule, and this sampler runs a part of one. Use mode "
            "resampled, which goes by noise level, or FastVideo Sampler with both models."
        )
    remedy = "or use mode resampled, which goes by noise level."
    if mode == "official" and schedule.steps != table.steps:
        raise RequestError(
            f"The ratio table {table.name} was measured with {table.steps} steps and mode official wants the same; there are "
            f"{schedule.steps}. Set steps to {table.steps}, {remedy}"
        )
    if not _has_shift(schedule, table.shift):
        raise RequestError(
            f"The ratio table {table.name} was measured with shift {table.shift:g}; {_spacing(schedule)}. "
            f"Set shift to {table.shift:g}, {remedy}"
        )


def _has_shift(schedule: Schedule, shift: float) -> bool:
    """Whether the levels, shifted back, fall evenly from 1 to 0."""
    unshifted = [level / (shift - (shift - 1) * level) for level in schedule.sigmas]
    return all(abs(level - (1 - i / schedule.steps)) < SAME_SPACING for i, level in enumerate(unshifted))


def _spacing(schedule: Schedule) -> str:
    """In words. An even schedule's shift is read off the level at its middle, u = 1/2: sigma = s / (s + 1)."""
    middle = schedule.steps // 2
    level, even = schedule.sigmas[middle], 1 - middle / schedule.steps
    if 0 < level < 1:
        shift = level * (1 - even) / (even * (1 - level))
        if _has_shift(schedule, shift):
            return f"the schedule's noise levels are those of shift {shift:.3g}"
    return "the schedule's noise levels are those of no shift, but of another scheduler"

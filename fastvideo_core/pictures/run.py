"""A run at one look: a bar for each step, as high as its seconds; the phases; its memory; and what would be faster."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..report import PhaseReport, RunReport, faster
from ..report.faster import seconds
from ..report.step_times import StepTimes, TimedStep, steps_of
from .figure import COLOURS, FAINT, INK, PAGE, SIZE, new_figure, pixels, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, BARS = 720, 330
"""Pixels of the picture, and of the height that the bars and their axes have."""
LEFT, RIGHT, ABOVE, BELOW = 76, 24, 30, 52
"""Pixels of the margins around the bars."""
LINE, LETTERS = 26, 68
"""Pixels of a line of text, and how many letters fit."""
TALLEST = 2.5
"""Times the dearest kind of step: a higher bar, as of a first step that loads and warms up, is cut off and says its seconds."""
LOOKS: Mapping[str, Mapping[str, Any]] = {
    "computed": {"linewidth": 0},
    "partly": {"alpha": 0.6, "hatch": "///", "edgecolor": PAGE, "linewidth": 0},
    "skipped": {"facecolor": PAGE, "linewidth": 1.5},
}
"""Of bars: filled, hatched and lighter, or their outline alone."""


def run_picture(report: RunReport, title: str = "") -> Tensor:
    """(H, 720, 3) in 0..1. title: a line above all."""
    return pixels(drawn(report, title))


def drawn(report: RunReport, title: str = "") -> "Figure":
    head = [*filter(None, [title]), *textwrap.wrap(report.headline, LETTERS)]
    foot = [line for words in _told(report) for line in textwrap.wrap(words, LETTERS, subsequent_indent="    ")]
    steps = list(steps_of(report))
    height = LINE * (len(head) + len(foot) + 2) + BARS
    figure = new_figure(WIDTH, height)
    _write(figure, height - LINE / 2, head, INK)
    bottom = LINE * (len(foot) + 1)
    across, up = (WIDTH - LEFT - RIGHT) / WIDTH, (BARS - ABOVE - BELOW) / height
    axes = figure.add_axes((LEFT / WIDTH, (bottom + BELOW) / height, across, up))
    styled(axes)
    if steps:
        _draw(axes, steps, StepTimes.of([report]))
    _write(figure, bottom - LINE / 2, foot, FAINT)
    return figure


def _told(report: RunReport) -> list[str]:
    """What is written below the bars."""
    memory, late = report.peak_memory_bytes, StepTimes.of([report]).late
    lines = [] if memory is None else [f"peak memory {memory / 2**30:.2f} GiB on {report.device}"]
    lines += [f"{seconds(late)} more in first steps, for loading and warm-up"] if late >= 0.1 * report.total_seconds else []
    return [*lines, *(f"faster: {sentence}" for sentence in faster(report))]


def _write(figure: "Figure", top: float, lines: Sequence[str], colour: str) -> None:
    """Lines below each other from a height in pixels on."""
    width, height = (float(side) for side in figure.get_size_inches() * figure.dpi)
    for place, line in enumerate(lines):
        y = (top - LINE * place) / height
        figure.text(18 / width, y, line, color=colour, va="top", fontsize=SIZE, parse_math=False)


def _draw(axes: "Axes", steps: Sequence[TimedStep], times: StepTimes) -> None:
    from matplotlib.ticker import MaxNLocator

    experts = dict.fromkeys(step.phase.expert for step in steps)
    colours = dict(zip(experts, COLOURS * len(experts), strict=False))
    top = TALLEST * max(times.cost(kind).middle for kind in times.counts)
    top = min(top, 1.05 * max(step.seconds for step in steps)) or 1.0
    for step in steps:
        _bar(axes, step, colours[step.phase.expert], top)
    axes.set_ylim(0, top)
    axes.set_xlim(steps[0].number + 0.4, steps[-1].number + 1.6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.set_xlabel("step", color=FAINT, fontsize=SIZE, loc="left")
    axes.set_ylabel("seconds", color=FAINT, fontsize=SIZE)
    _phases(axes, steps, colours)
    _legend(axes, {step.work for step in steps})


def _bar(axes: "Axes", step: TimedStep, colour: str, top: float) -> None:
    look = {"facecolor": colour, "edgecolor": colour, **LOOKS[step.work]}
    axes.bar(step.number + 1, min(step.seconds, top), width=0.8, **look)
    if step.seconds > top:
        axes.text(step.number + 1.5, top, seconds(step.seconds), color=INK, fontsize=SIZE, va="top")


def _phases(axes: "Axes", steps: Sequence[TimedStep], colours: Mapping[str, str]) -> None:
    """A line where one begins, and above it the expert's name and the guidance scale."""
    firsts = [step for step in steps if step.place == 0]
    for step, after in zip(firsts, [*firsts[1:], None], strict=True):
        end = steps[-1].number + 1 if after is None else after.number
        letters = (end - step.number) / len(steps) * LETTERS
        axes.annotate(
            next((words for words in _names(step.phase) if len(words) < letters), ""),
            (step.number + 0.5, 1), xycoords=("data", "axes fraction"), xytext=(3, 6), textcoords="offset points",
            color=colours[step.phase.expert], fontsize=SIZE, annotation_clip=False,
        )  # fmt: skip
        axes.axvline(step.number + 0.5, color=FAINT, linestyle=":", linewidth=1.5)


def _names(phase: PhaseReport) -> list[str]:
    """The longest first."""
    name, scale = phase.expert.replace("_", "-"), f"scale {phase.guidance_scale:g}"
    return [scale] if phase.expert == "single" else [f"{name}, {scale}", scale]


def _legend(axes: "Axes", works: set[str]) -> None:
    """What bars look like; nothing where all are the same."""
    from matplotlib.patches import Patch

    if works <= {"computed"}:
        return
    shown = [Patch(**{"facecolor": FAINT, "edgecolor": FAINT, **LOOKS[work]}, label=work) for work in LOOKS if work in works]
    axes.legend(
        handles=shown, loc="upper right", bbox_to_anchor=(1, -0.06), ncols=len(shown), labelcolor=INK, fontsize=SIZE,
        frameon=False, borderaxespad=0,
    )  # fmt: skip

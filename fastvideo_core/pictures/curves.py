"""Curves as a picture: what a comparison or a search found."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from .figure import COLOURS, FAINT, INK, SIZE, new_figure, pixels, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 720, 320
"""Pixels of a panel."""
NAME = 20
"""Letters of a line of a curve's name, which stands beside the axes."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """points: (x, y), in the order in which they are joined; one whose y is not finite is left out."""

    name: str
    points: Sequence[tuple[float, float]]

    @property
    def finite(self) -> list[tuple[float, float]]:
        return [(x, y) for x, y in self.points if math.isfinite(y)]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One pair of axes. note: what the curves do not show, in words; all that there is where there are none."""

    title: str
    x: str
    y: str
    curves: Sequence[Curve]
    note: str = ""


def plot(panels: Sequence[Panel]) -> Tensor:
    """The panels below each other, (320 * panels, 720, 3) in 0..1."""
    return pixels(drawn(panels))


def drawn(panels: Sequence[Panel]) -> "Figure":
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = new_figure(WIDTH, HEIGHT * len(panels), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    for axes, panel in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        styled(axes)
        _draw(axes, panel)
    return figure


def _draw(axes: "Axes", panel: Panel) -> None:
    axes.set_title(f"{panel.title}: {panel.y}", color=INK, fontsize=SIZE, loc="left")
    curves = [curve for curve in panel.curves if curve.finite]
    for curve, colour in zip(curves, COLOURS * len(curves), strict=False):
        name = textwrap.fill(curve.name, NAME)
        axes.plot(*zip(*curve.finite, strict=True), label=name, color=colour, marker="o", markersize=5, linewidth=2)
    if not curves:
        axes.set_axis_off()
        axes.text(0.5, 0.5, panel.note, transform=axes.transAxes, ha="center", va="center", color=INK, fontsize=SIZE)
        return
    _scale(axes, curves)
    axes.set_xlabel("\n".join([panel.x, *filter(None, [panel.note])]), color=FAINT, fontsize=SIZE)
    if len(curves) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), labelcolor=INK, fontsize=SIZE, frameon=False)


def _scale(axes: "Axes", curves: Sequence[Curve]) -> None:
    """Few ticks, each written out as far as it differs from the next; whole ones along what is counted."""
    from matplotlib.ticker import MaxNLocator

    counted = all(isinstance(x, int) for curve in curves for x, _ in curve.points)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=counted))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.ticklabel_format(useOffset=False)

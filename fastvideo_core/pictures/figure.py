"""Figures of matplotlib and their pixels, without pyplot, which keeps figures and a style for the whole process."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..whole_file import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE, INK, FAINT, GRID = "#1b1e23", "#e8eaed", "#a9b1ba", "#3a4048"
"""Light on dark, as ComfyUI's canvas is."""
COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#f0e442")
"""Told apart by the colour-blind too (Okabe & Ito 2008, "Color universal design")."""
DPI = 100
SIZE = 14
"""Of letters, in points: still to be read where a node shows the picture at half its size."""


def new_figure(width: int, height: int, **options: Any) -> "Figure":
    """width, height: pixels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=PAGE, **options)


def styled(axes: "Axes") -> None:
    """Ticks, lines and words in this page's colours, and no frame."""
    axes.set_facecolor(PAGE)
    axes.tick_params(colors=INK, labelsize=SIZE, length=0)
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def pixels(figure: "Figure") -> Tensor:
    """(H, W, 3) in 0..1."""
    import numpy
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    drawn = numpy.array(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return torch.from_numpy(drawn[..., :3]).float() / 255


def save_png(picture: Tensor, path: Path) -> None:
    """picture: (H, W, 3) in 0..1.

    Raises:
        RequestError: it cannot be written.
    """
    from PIL import Image

    with whole_file(path) as part:
        Image.fromarray((picture * 255).round().byte().numpy()).save(part, "PNG", optimize=True)

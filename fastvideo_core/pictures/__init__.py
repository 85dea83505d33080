"""What was measured, as pictures for people: (H, W, 3) in 0..1. matplotlib draws, and is imported when it does."""

from .curves import Curve, Panel, plot
from .figure import save_png
from .frames import frame_panels
from .run import run_picture
from .side_by_side import difference, side_by_side

__all__ = ["Curve", "Panel", "difference", "frame_panels", "plot", "run_picture", "save_png", "side_by_side"]

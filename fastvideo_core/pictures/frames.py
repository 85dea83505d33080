"""A comparison over its frames."""

import math
from collections.abc import Mapping

from ..quality import Comparison, Motion
from ..quality.account import METRICS
from .curves import Curve, Panel


def frame_panels(comparisons: Mapping[str, Comparison], title: str = "per frame") -> list[Panel]:
    """Each metric over the frames, and how the videos move; videos that equal the reference are named in words.

    Args:
        comparisons: of candidates by name, with one reference.
    """
    differing = {name: each for name, each in comparisons.items() if math.isfinite(each.worst.psnr)}
    equal = [f"{name} equals the reference, pixel by pixel" for name in comparisons if name not in differing]
    if not differing:
        return [Panel(title=title, x="", y="equal", curves=[], note="\n".join(equal))]
    panels = [_metric(metric, title, differing, equal) for metric in METRICS if _measured(metric, differing)]
    moving = {name: each.motion for name, each in comparisons.items() if each.motion is not None and each.motion.reference.pairs}
    if moving:
        first = next(iter(moving.values()))
        curves = [*(_motion(name, each.candidate) for name, each in moving.items()), _motion("reference", first.reference)]
        panels.append(Panel(title=title, x="frame", y="motion, pixels since the frame before", curves=curves))
    return panels


def _measured(metric: str, comparisons: Mapping[str, Comparison]) -> bool:
    return all(getattr(frame, metric) is not None for each in comparisons.values() for frame in each.frames)


def _metric(metric: str, title: str, comparisons: Mapping[str, Comparison], equal: list[str]) -> Panel:
    name, unit, _ = METRICS[metric]
    curves = [
        Curve(name=named, points=[(place, getattr(frame, metric)) for place, frame in enumerate(each.frames)])
        for named, each in comparisons.items()
    ]
    left_out = [
        f"{curve.name}: {len(curve.points) - len(curve.finite)} of {len(curve.points)} frames equal, not drawn"
        for curve in curves
        if len(curve.finite) < len(curve.points)
    ]
    note = "\n".join([*equal, *left_out])
    return Panel(title=title, x="frame", y=" ".join([name, unit]).strip(), curves=curves, note=note)


def _motion(name: str, motion: Motion) -> Curve:
    return Curve(name=name, points=[(place, pair.mean) for place, pair in enumerate(motion.pairs, start=1)])

"""A comparison as people read it: how alike two videos are, and what the one saved against the other."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from ..report import RunReport
from ..report.step_times import StepTimes
from ..speed import speed_up
from ..words import counted
from .comparison import Comparison, FrameQuality
from .motion import MotionComparison

METRICS = {"psnr": ("PSNR", "dB", ".2f"), "ssim": ("SSIM", "", ".4f"), "lpips": ("LPIPS", "", ".4f")}
"""Name, unit and digits of each."""
_EARLIER = (
    "the {} comes from an earlier prompt, whose result ComfyUI kept: the machine may have been busier then, or less so. "
    "For a time to rely on make both in one prompt."
)


def table(
    comparison: Comparison, reference: RunReport | None = None, candidate: RunReport | None = None, prompt: str | None = None
) -> str:
    """Seconds, speed-up and likeness in the first line; then the metrics, and what those runs took and skipped whose report there
    is.

    Args:
        prompt: the host's name of the prompt that runs now: a run of another one is named.
    """
    reports = [(name, report) for name, report in (("reference", reference), ("candidate", candidate)) if report is not None]
    lines = [", ".join([*_speed(reference, candidate), *_likeness(comparison)])]
    lines += [f"{len(comparison.frames)} frames, data range {comparison.data_range:g}", f"{'':8}{'mean':>12}{'worst frame':>22}"]
    lines += [_row(comparison, metric) for metric in METRICS if getattr(comparison.frames[0], metric) is not None]
    lines += [] if comparison.motion is None else _motion_rows(comparison.motion)
    for name, report in reports:
        lines += [f"{name}: {_took(report)}", *_caches(report)]
    lines += [f"note: {_EARLIER.format(name)}" for name, report in reports if report.prompt not in (None, prompt)]
    return "\n".join(lines)


def account_json(comparison: Comparison, reference: RunReport | None = None, candidate: RunReport | None = None) -> str:
    """Everything, for programs; a number that is infinite is null, and so is a speed-up that is not distinguishable from 1."""
    reports: dict[str, Any] = {"reference": reference, "candidate": candidate}
    told = {name: None if report is None else asdict(report) for name, report in reports.items()}
    speed = None if reference is None or candidate is None else speed_up(reference, candidate)
    figures = {"speed_up": None, "speed_up_between": None} if speed is None else speed.figures()
    return json.dumps({**json.loads(comparison.json()), **told, **figures}, indent=2, allow_nan=False)


def _row(comparison: Comparison, metric: str) -> str:
    name, unit, digits = METRICS[metric]

    def value(quality: FrameQuality) -> float:
        return float(getattr(quality, metric))

    mean, worst = value(comparison.mean), value(comparison.worst)
    frame = _first(comparison.frames, lambda quality: value(quality) == worst)
    where = f" in frame {frame}" if math.isfinite(worst) else ""
    return f"{name:8}{f'{mean:{digits}} {unit}':>12}{f'{worst:{digits}} {unit}{where}':>22}".rstrip()


def _motion_rows(comparison: MotionComparison) -> list[str]:
    """A row for each figure of both videos; none for single frames, which do not move."""
    both = (comparison.reference, comparison.candidate)
    if not comparison.reference.pairs:
        return []
    ratio = "" if comparison.ratio is None else f", ratio {comparison.ratio:.3f}"
    rows = [
        (f"motion, pixels per frame{ratio}", [_told(each.magnitude, ".2f") for each in both]),
        (f"still pairs of {len(both[0].pairs)}", [_told(each.still_share, ".0%") for each in both]),
        ("flicker of brightness", [_told(each.flicker, ".2%") for each in both]),
        ("colour drift, CIELAB", [_told(each.colour_drift, ".2f") for each in both]),
    ]
    return [f"{'':40}{'reference':>10}{'candidate':>11}", *(f"{name:40}{a:>10}{b:>11}" for name, (a, b) in rows)]


def _told(value: float | None, digits: str) -> str:
    return "-" if value is None else f"{value:{digits}}"


def _first(frames: Sequence[FrameQuality], fits: Callable[[FrameQuality], bool]) -> int:
    return next(index for index, frame in enumerate(frames) if fits(frame))


def _speed(reference: RunReport | None, candidate: RunReport | None) -> list[str]:
    if reference is None or candidate is None:
        return ["speed-up not known (it takes both reports)"]
    slow, fast = (StepTimes.of([report]).total().middle for report in (reference, candidate))
    return [f"{fast:.2f} s in place of {slow:.2f} s", f"speed-up {speed_up(reference, candidate).text()}"]


def _likeness(comparison: Comparison) -> list[str]:
    ratio = None if comparison.motion is None else comparison.motion.ratio
    return [f"SSIM {comparison.mean.ssim:.4f}", *([] if ratio is None else [f"motion {ratio:.2f} times the reference's"])]


def _took(report: RunReport) -> str:
    times = StepTimes.of([report])
    sampling = times.total()
    late = f"; {times.late:.2f} s more in first steps, for loading and warm-up" if times.late else ""
    steps = counted(len(report.step_seconds), "step")
    return f"{steps} in {sampling.middle:.2f} s ({sampling.low:.2f} - {sampling.high:.2f}){late}"


def _caches(report: RunReport) -> list[str]:
    return [f"  {line}" for cache in report.caches for line in cache.lines()]

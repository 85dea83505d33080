"""A comparison as people read it: how alike two videos are, and what the one saved against the other."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from ..report import RunReport
from .comparison import Comparison, FrameQuality
from .plot import Curve, Panel

METRICS = {"psnr": ("PSNR", "dB", ".2f"), "ssim": ("SSIM", "", ".4f"), "lpips": ("LPIPS", "", ".4f")}
"""Name, unit and digits of each."""


def table(comparison: Comparison, reference: RunReport | None = None, candidate: RunReport | None = None) -> str:
    """The metrics, and the seconds and skipped steps of those runs whose report there is."""
    lines = [f"{len(comparison.frames)} frames, data range {comparison.data_range:g}", f"{'':8}{'mean':>12}{'worst frame':>22}"]
    lines += [_row(comparison, metric) for metric in METRICS if getattr(comparison.frames[0], metric) is not None]
    for name, report in (("reference", reference), ("candidate", candidate)):
        if report is not None:
            lines += [f"{name}: {report.total_seconds:.2f} s, {len(report.step_seconds)} steps", *_caches(report)]
    if reference is not None and candidate is not None:
        lines.append(f"speed-up: {speed_up(reference, candidate):.2f}")
    return "\n".join(lines)


def account_json(comparison: Comparison, reference: RunReport | None = None, candidate: RunReport | None = None) -> str:
    """Everything, for programs; a number that is infinite is null."""
    reports: dict[str, Any] = {"reference": reference, "candidate": candidate}
    told = {name: None if report is None else asdict(report) for name, report in reports.items()}
    speed = speed_up(reference, candidate) if reference is not None and candidate is not None else None
    return json.dumps({**json.loads(comparison.json()), **told, "speed_up": speed}, indent=2, allow_nan=False)


def speed_up(reference: RunReport, candidate: RunReport) -> float:
    """Seconds of the reference to those of the candidate."""
    return reference.total_seconds / candidate.total_seconds


def frame_panels(comparison: Comparison) -> list[Panel]:
    """Each metric over the frames."""
    panels = []
    for metric, (name, unit, _) in METRICS.items():
        values = [getattr(frame, metric) for frame in comparison.frames]
        if None not in values:
            curve = Curve(name="candidate", points=list(enumerate(values)))
            panels.append(Panel(title="per frame", x="frame", y=" ".join([name, unit]).strip(), curves=[curve]))
    return panels


def _row(comparison: Comparison, metric: str) -> str:
    name, unit, digits = METRICS[metric]

    def value(quality: FrameQuality) -> float:
        return float(getattr(quality, metric))

    mean, worst = value(comparison.mean), value(comparison.worst)
    frame = _first(comparison.frames, lambda quality: value(quality) == worst)
    where = f" in frame {frame}" if math.isfinite(worst) else ""
    return f"{name:8}{f'{mean:{digits}} {unit}':>12}{f'{worst:{digits}} {unit}{where}':>22}".rstrip()


def _first(frames: Sequence[FrameQuality], fits: Callable[[FrameQuality], bool]) -> int:
    return next(index for index, frame in enumerate(frames) if fits(frame))


def _caches(report: RunReport) -> list[str]:
    return [f"  {line}" for cache in report.caches for line in cache.lines()]

"""Two videos side by side as numbers: per frame, on average, at worst."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from torch import Tensor

from ..checks import yes_or_no
from .metrics import check_videos, psnr, ssim
from .motion import MotionComparison, large_enough, motion
from .perceptual import lpips


@dataclass(frozen=True, kw_only=True)
class FrameQuality:
    """psnr: dB, infinite for equal frames. ssim: 1 for equal ones. lpips: 0 for equal ones, None where not measured."""

    psnr: float
    ssim: float
    lpips: float | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two videos whose pixels lie in 0..data_range. motion: None where the frames are too small for it."""

    data_range: float
    frames: tuple[FrameQuality, ...]
    motion: MotionComparison | None = None

    @property
    def mean(self) -> FrameQuality:
        """PSNR over the frames that differ (a given first frame is equal, and infinite); infinite when none does."""
        differing = [frame.psnr for frame in self.frames if math.isfinite(frame.psnr)]
        return FrameQuality(
            psnr=_mean(differing) if differing else math.inf,
            ssim=_mean([frame.ssim for frame in self.frames]),
            lpips=_mean(self._lpips()) if self._lpips() else None,
        )

    @property
    def worst(self) -> FrameQuality:
        """Of each metric by itself; they need not meet in one frame."""
        return FrameQuality(
            psnr=min(frame.psnr for frame in self.frames),
            ssim=min(frame.ssim for frame in self.frames),
            lpips=max(self._lpips(), default=None),
        )

    def json(self) -> str:
        """Everything; a PSNR of null is infinite, the frames being equal."""
        rows = {"mean": _row(self.mean), "worst": _row(self.worst), "frames": [_row(frame) for frame in self.frames]}
        moves = {"motion": None if self.motion is None else self.motion.figures()}
        return json.dumps({"data_range": self.data_range, **rows, **moves}, indent=2, allow_nan=False)

    def _lpips(self) -> list[float]:
        return [frame.lpips for frame in self.frames if frame.lpips is not None]


def compare(a: Tensor, b: Tensor, data_range: float = 1.0, *, perceptual: bool = False) -> Comparison:
    """PSNR and SSIM of two videos, how both move, and LPIPS where `perceptual`.

    Args:
        a, b: (T, 3, H, W) float in 0..data_range, reference and candidate, H and W at least 11, for motion at least 16.

    Raises:
        RequestError, LoadError: as `ssim` and `lpips`.
    """
    yes_or_no("perceptual", perceptual)
    a, b = check_videos(a, b, data_range)
    distances = lpips(a, b, data_range).tolist() if perceptual else [None] * len(a)
    rows = zip(psnr(a, b, data_range).tolist(), ssim(a, b, data_range).tolist(), distances, strict=True)
    frames = tuple(FrameQuality(psnr=p, ssim=s, lpips=d) for p, s, d in rows)
    moves = MotionComparison(reference=motion(a, data_range), candidate=motion(b, data_range)) if large_enough(a) else None
    return Comparison(data_range=data_range, frames=frames, motion=moves)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _row(frame: FrameQuality) -> dict[str, float | None]:
    return {name: value if value is None or math.isfinite(value) else None for name, value in asdict(frame).items()}

"""How a video moves, as numbers that need no second video: magnitude, still frames, flicker, colour drift."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..errors import RequestError
from .flow import COARSEST, flow
from .metrics import check_videos

STILL = 0.1
"""Pixels per frame: a pair whose fastest windows move less is still. Noise of 0.01 of the data range stays below."""
FASTEST_SHARE = 20
"""One window in so many: VBench's dynamic degree goes by the fastest 5 % too (Huang et al. 2024, arXiv 2311.17982)."""
LUMA = (0.2126, 0.7152, 0.0722)
"""ITU-R BT.709."""
DRIFT_SHARE = 8
"""The first and the last eighth of the frames are what colours are compared of."""
XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
"""From linear RGB of BT.709's primaries; its rows' sums are the white D65."""


@dataclass(frozen=True, kw_only=True)
class PairMotion:
    """Two neighbouring frames. mean: pixels per frame, over the windows in which there is something to see (0 where there is
    none); fastest: of the fastest twentieth of them."""

    mean: float
    fastest: float


@dataclass(frozen=True, kw_only=True)
class Motion:
    """One video.

    pairs: of neighbouring frames, none for a single frame.
    flicker: the mean absolute second difference of the frames' mean brightness, a quarter of it, in shares of the data range.
        Brightness that alternates by +-a has a, an even fade and a still clip have 0; and unlike the difference of neighbouring
        frames that VBench calls temporal flickering, what moves adds nothing. None for fewer than 3 frames.
    colour_drift: CIE 1976 difference in L*a*b* of the mean colours of the last and the first eighth of the frames; 2.3 is just
        seen (Mahy et al. 1994, "Evaluation of uniform color spaces"). None for a single frame.
    """

    pairs: tuple[PairMotion, ...]
    flicker: float | None
    colour_drift: float | None

    @property
    def magnitude(self) -> float | None:
        """Pixels per frame, mean over the pairs."""
        return math.fsum(pair.mean for pair in self.pairs) / len(self.pairs) if self.pairs else None

    @property
    def still_share(self) -> float | None:
        """Of the pairs, 0..1: those whose fastest windows move by less than 0.1 pixels."""
        return sum(pair.fastest < STILL for pair in self.pairs) / len(self.pairs) if self.pairs else None

    def figures(self) -> dict[str, Any]:
        return {"magnitude": self.magnitude, "still_share": self.still_share, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class MotionComparison:
    """How two videos of one size move."""

    reference: Motion
    candidate: Motion

    @property
    def ratio(self) -> float | None:
        """The candidate's magnitude to the reference's; None where nothing moves in the reference."""
        moves, still = self.reference.magnitude, self.reference.still_share
        if moves is None or still == 1 or self.candidate.magnitude is None:
            return None
        return self.candidate.magnitude / moves

    def figures(self) -> dict[str, Any]:
        return {"ratio": self.ratio, "reference": self.reference.figures(), "candidate": self.candidate.figures()}


@torch.no_grad()
def motion(video: Tensor, data_range: float = 1.0) -> Motion:
    """Magnitude by optical flow (`flow.py` says which, and from where), flicker and colour drift.

    Args:
        video: (T, 3, H, W) float in 0..data_range, H and W at least 16.

    Raises:
        RequestError: it is of another shape, out of range, or smaller.
    """
    video, _ = check_videos(video, video, data_range)
    if not large_enough(video):
        raise RequestError(
            f"Frames of {video.shape[3]} x {video.shape[2]} pixels are too small to see motion in: give {COARSEST} x {COARSEST} "
            "or more."
        )
    colours = [(frame.float().mean((1, 2)) / data_range).tolist() for frame in video]
    return Motion(pairs=tuple(_pairs(video, data_range)), flicker=_flicker(colours), colour_drift=_colour_drift(colours))


def large_enough(video: Tensor) -> bool:
    return min(video.shape[2:]) >= COARSEST


def _pairs(video: Tensor, data_range: float) -> Iterator[PairMotion]:
    for motions, visible in flow(video, data_range):
        lengths = torch.linalg.vector_norm(motions, dim=1, keepdim=True).cpu()
        for each, counts in zip(lengths, visible.cpu(), strict=True):
            seen = each[counts]
            yield PairMotion(mean=float(seen.mean()), fastest=_fastest(seen)) if len(seen) else PairMotion(mean=0.0, fastest=0.0)


def _fastest(lengths: Tensor) -> float:
    return float(lengths.topk(max(1, len(lengths) // FASTEST_SHARE)).values.mean())


def _flicker(colours: Sequence[Sequence[float]]) -> float | None:
    brightness = [_dot(LUMA, colour) for colour in colours]
    steps = [after - before for before, after in pairwise(brightness)]
    turns = [abs(after - before) / 4 for before, after in pairwise(steps)]
    return math.fsum(turns) / len(turns) if turns else None


def _colour_drift(colours: Sequence[Sequence[float]]) -> float | None:
    if len(colours) < 2:
        return None
    count = max(1, len(colours) // DRIFT_SHARE)
    first, last = (
        _lab([math.fsum(channel) / count for channel in zip(*some, strict=True)]) for some in (colours[:count], colours[-count:])
    )
    return math.dist(first, last)


def _lab(colour: Sequence[float]) -> tuple[float, float, float]:
    """CIE 1976 L*a*b* of an sRGB colour in 0..1 (IEC 61966-2-1), under D65."""
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in colour]
    x, y, z = (_cube_root(_dot(row, linear) / math.fsum(row)) for row in XYZ)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def _cube_root(value: float) -> float:
    """CIE's, which is straight near black."""
    return value ** (1 / 3) if value > (6 / 29) ** 3 else value * (29 / 6) ** 2 / 3 + 4 / 29

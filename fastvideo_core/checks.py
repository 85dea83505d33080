"""What a person gives, looked at before anything runs: its kind, that it is finite, its range.

Numbers come through float32 and sums of a few terms, and frames through resizing, so at the end of a range there is one rule:
what is out of it by rounding is its end; what is out by more is refused with its value.
"""

import math
from collections.abc import Collection
from numbers import Integral, Real

import torch
from torch import Tensor

from .errors import RequestError

ROUNDING = 1e-5
"""Numbers this close are one: relatively, and in 0..1 absolutely. float32 itself rounds to 6e-8."""


def settled(value: float, low: float = 0.0, high: float = 1.0) -> float:
    """`value`, or the end of the range that it is out of by rounding; NaN where it is out by more."""
    margin = ROUNDING * (high - low)
    return min(max(value, low), high) if low - margin <= value <= high + margin else math.nan


def settled_pixels(frames: Tensor, high: float = 1.0) -> Tensor | None:
    """The frames in 0..high, cut off where they are out of it by rounding; None where they are out by more, or hold NaN."""
    least, most = (float(value) for value in frames.aminmax())
    if least >= 0 and most <= high:
        return frames
    margin = max(ROUNDING, torch.finfo(frames.dtype).eps) * high
    return frames.clamp(0, high) if least >= -margin and most <= high + margin else None


def is_one(value: float) -> bool:
    """Guidance at this scale is off."""
    return abs(value - 1) <= ROUNDING


def part_of(steps: int, fraction: float) -> int:
    """How many whole steps a fraction of them is: 0.29 * 100 is a hair less than 29."""
    return int(steps * fraction * (1 + ROUNDING))


def number(name: str, value: object, why: str) -> float:
    """A finite number. why: what it must be, for the error."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise RequestError(f"{name} is {_shown(value)}: {why}")
    return float(value)


def share(name: str, value: object, why: str) -> float:
    """A number in 0..1."""
    found = settled(number(name, value, why))
    if math.isnan(found):
        raise RequestError(f"{name} is {_shown(value)}: {why}")
    return found


def whole(name: str, value: object, why: str, least: int | None = None) -> int:
    """A whole number, `least` or more."""
    if isinstance(value, bool) or not isinstance(value, Integral) or (least is not None and value < least):
        raise RequestError(f"{name} is {_shown(value)}: {why}")
    return int(value)


def one_of(name: str, value: object, names: Collection[str]) -> None:
    if not isinstance(value, str) or value not in names:
        raise RequestError(f"{name} is {_shown(value)}: use one of {', '.join(names)}.")


def yes_or_no(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise RequestError(f"{name} is {_shown(value)}: it is True or False.")


def of_kind(name: str, value: object, kind: type | tuple[type, ...], why: str) -> None:
    """why: what it must be, for the error."""
    if not isinstance(value, kind):
        raise RequestError(f"{name} is {_shown(value)}: {why}")


def put(settings: object, **values: object) -> None:
    """Checked values into a frozen dataclass that is being made."""
    for name, value in values.items():
        object.__setattr__(settings, name, value)


def _shown(value: object) -> str:
    """Tensors and networks would fill the screen."""
    text = f"{value!r:.80}"
    return f"a {type(value).__name__}" if isinstance(value, Tensor) or "\n" in text else text

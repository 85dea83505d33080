"""Auto-tune: the step cache's settings that save most and keep a wanted likeness to the dense video."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Literal

from .checks import one_of, share
from .errors import RequestError
from .pictures import Curve, Panel
from .quality import FrameQuality
from .report import RunReport
from .speed import Speed
from .step_cache import DBCacheSettings, MagCacheSettings

CacheSettings = MagCacheSettings | DBCacheSettings
TunedCache = Literal["magcache", "dbcache"]

TARGET = "it lies between 0 and 1, usually at 0.9 to 0.99."
LADDERS: Mapping[TunedCache, tuple[CacheSettings, ...]] = MappingProxyType({
    "magcache": tuple(
        MagCacheSettings(threshold=threshold, max_skips=max_skips, trend=0.7)
        for threshold, max_skips in ((0.03, 1), (0.06, 1), (0.12, 1), (0.12, 2), (0.24, 2), (0.24, 3), (0.4, 4), (0.6, 6))
    ),
    "dbcache": tuple(
        DBCacheSettings(threshold=threshold, max_skips=max_skips)
        for threshold, max_skips in ((0.05, 1), (0.1, 1), (0.1, 2), (0.15, 2), (0.2, 2), (0.3, 3), (0.4, 4), (0.5, 6))
    ),
})  # fmt: skip
"""Settings in the order of what they save: a larger threshold, and more steps in a row."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One setting tried. quality: mean over the frames against the dense video; cut: share of the block calls saved; speed:
    of sampling, against the dense run; seconds: of sampling."""

    settings: CacheSettings
    quality: FrameQuality
    cut: float
    speed: Speed
    seconds: float

    def line(self) -> str:
        return f"{self.asked}: {self.told}, PSNR {self.quality.psnr:.1f} dB, {self.cut:.0%} of the block calls saved"

    @property
    def asked(self) -> str:
        return settings_text(self.settings)

    @property
    def told(self) -> str:
        """The seconds, the speed and the likeness."""
        return f"{self.seconds:.2f} s, speed-up {self.speed.text()}, SSIM {self.quality.ssim:.4f}"

    def row(self) -> dict[str, Any]:
        """For JSON, which has no infinity."""
        told, psnr = asdict(self), self.quality.psnr
        quality = {"ssim": self.quality.ssim, "psnr": psnr if math.isfinite(psnr) else None}
        return {**told, "quality": quality, "speed": self.speed.figures()}


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """A finished search. attempts: in the order of the ladder; best: the one that saves most and reaches `target`."""

    cache: TunedCache
    target: float
    attempts: tuple[Attempt, ...]
    best: Attempt

    def text(self) -> str:
        """For people."""
        tried = [f"  {attempt.line()}" for attempt in self.attempts]
        head = f"{self.best.told}: {self.cache} with {self.best.asked}, which saves most and reaches SSIM {self.target:g}"
        return "\n".join([head, f"tried {len(tried)} of {len(LADDERS[self.cache])} settings:", *tried])

    def json(self) -> str:
        """Everything, for programs; a PSNR of null is infinite."""
        rows = [attempt.row() for attempt in self.attempts]
        told = {"cache": self.cache, "target": self.target}
        return json.dumps({**told, "best": self.best.row(), "attempts": rows}, indent=2, allow_nan=False)

    def panel(self) -> Panel:
        """SSIM over the block calls saved."""
        points = sorted((100 * attempt.cut, attempt.quality.ssim) for attempt in self.attempts)
        wanted = [(x, self.target) for x in (points[0][0], points[-1][0])]
        curves = [Curve(name=self.cache, points=points), Curve(name="wanted", points=wanted)]
        return Panel(title="against dense", x="% of the block calls saved", y="SSIM", curves=curves)


def tune(cache: TunedCache, target: float, attempt: Callable[[CacheSettings], Attempt]) -> Tuning:
    """Looks for the last rung of the cache's ladder that reaches the target, by halving: SSIM falls from rung to rung.

    Args:
        target: mean SSIM over the frames.
        attempt: runs a generation with these settings and compares it with the dense one of the same seed.

    Raises:
        RequestError: the target is out of range, or no rung reaches it.
    """
    check_wanted(cache, target)
    ladder, tried = LADDERS[cache], dict[int, Attempt]()
    reached, missed = -1, len(ladder)
    while missed - reached > 1:
        rung = (reached + missed) // 2
        tried[rung] = attempt(ladder[rung])
        if tried[rung].quality.ssim >= target:
            reached = rung
        else:
            missed = rung
    attempts = tuple(tried[rung] for rung in sorted(tried))
    if reached < 0:
        raise RequestError(_out_of_reach(cache, target, attempts))
    return Tuning(cache=cache, target=target, attempts=attempts, best=tried[reached])


def settings_text(settings: CacheSettings) -> str:
    """What a ladder's rungs differ by."""
    return f"threshold {settings.threshold:g}, max_skips {settings.max_skips}"


def check_wanted(cache: TunedCache, target: float) -> None:
    """What a search is asked for, before its dense run. Raises RequestError as `tune`."""
    one_of("cache", cache, LADDERS)
    if share("The wanted SSIM", target, TARGET) == 0:
        raise RequestError(f"The wanted SSIM is {target}: {TARGET}")


def blocks_cut(report: RunReport) -> float:
    """The share of block calls that the caches of a run saved.

    Raises:
        RequestError: a cache stood aside, so that there is nothing to tune.
    """
    for cache in report.caches:
        check_tunable(cache.name, cache.aside)
    return 1 - sum(cache.blocks_ran for cache in report.caches) / sum(cache.blocks_asked for cache in report.caches)


def check_tunable(cache: str, aside: str) -> None:
    """aside: why it stands aside. Raises RequestError where it does."""
    if aside:
        raise RequestError(f"There is nothing to tune: {cache} stands aside: {aside}")


def _out_of_reach(cache: str, target: float, attempts: Sequence[Attempt]) -> str:
    tried = "\n".join(f"  {attempt.line()}" for attempt in attempts)
    best = max(attempts, key=lambda attempt: attempt.quality.ssim)
    return (
        f"No setting of {cache} reaches SSIM {target:g} on this video; the nearest is {best.quality.ssim:.4f}, with "
        f"{best.asked}. Ask for less, or use more steps. Tried:\n{tried}"
    )

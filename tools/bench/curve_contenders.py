"""The step caches whose speed and quality are compared, each over a range of settings, on one demo model."""

import contextlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from torch import nn

from fastvideo_core.schedule import Schedule
from fastvideo_core.step_cache import (
    DBCache,
    DBCacheSettings,
    MagCache,
    MagCacheSettings,
    RatioTable,
    StepCache,
    read_table,
    recommended,
)
from fastvideo_core.step_cache.cache_dit import CacheDiT
from fastvideo_core.step_cache.dbcache_settings import DBCACHE_PRESETS
from fastvideo_core.wan.demo import FOLDER
from tools.demo_model.calibrate import CLIPS, FIRST_PROMPT
from tools.demo_model.engine import DemoEngine

OUR_MAGCACHE, OUR_DBCACHE, DIFFUSERS, CACHE_DIT = "FastVideo MagCache", "FastVideo DBCache", "diffusers MagCache", "cache-dit"
RIVALS = {OUR_MAGCACHE: DIFFUSERS, OUR_DBCACHE: CACHE_DIT}
TREND = 0.7


@dataclass(frozen=True)
class CurvePoint:
    """A step cache with one setting. opened: what a generation runs in, and gives the cache for the engine, or None where it
    sits on the network itself."""

    name: str
    setting: str
    opened: Callable[[Schedule], AbstractContextManager[StepCache | None]]


def curve_points(demo: DemoEngine, schedule: Schedule) -> list[CurvePoint]:
    table = read_table(FOLDER / f"{demo.weights}.json")
    return [
        *(_magcache(table, settings, text) for settings, text in _our_magcache(table)),
        *_diffusers(demo, schedule),
        *(_engine_cache(OUR_DBCACHE, DBCache, settings, text) for settings, text in _our_dbcache()),
        *(
            _engine_cache(CACHE_DIT, CacheDiT, DBCacheSettings(threshold=value, warmup_steps=8, taylor_order=0), f"{value:g}")
            for value in (0.08, 0.12, 0.18, 0.24)
        ),
    ]


def _our_magcache(table: RatioTable) -> Iterator[tuple[MagCacheSettings, str]]:
    yield recommended(table), "auto"
    for threshold, max_skips in ((0.03, 1), (0.06, 2), (0.12, 1), (0.24, 3), (0.4, 4)):
        yield MagCacheSettings(threshold=threshold, max_skips=max_skips, trend=TREND), f"{threshold:g}, {max_skips}"


def _our_dbcache() -> Iterator[tuple[DBCacheSettings, str]]:
    yield DBCACHE_PRESETS["auto"], "auto"
    for threshold, max_skips in ((0.08, 1), (0.12, 2), (0.18, 2), (0.3, 2)):
        yield DBCacheSettings(threshold=threshold, max_skips=max_skips, warmup_steps=8), f"{threshold:g}, {max_skips}, warmup 8"
    for threshold, max_skips in ((0.08, 1), (0.12, 1), (0.2, 1), (0.4, 4), (0.6, 6)):
        yield DBCacheSettings(threshold=threshold, max_skips=max_skips), f"{threshold:g}, {max_skips}"


def _magcache(table: RatioTable, settings: MagCacheSettings, text: str) -> CurvePoint:
    return CurvePoint(OUR_MAGCACHE, text, lambda schedule: nullcontext(MagCache(schedule, table, settings)))


def _engine_cache(name: str, kind: type[DBCache], settings: DBCacheSettings, text: str) -> CurvePoint:
    return CurvePoint(name, text, lambda schedule: nullcontext(kind(schedule, settings)))


def _diffusers(demo: DemoEngine, schedule: Schedule) -> Iterator[CurvePoint]:
    """Its own hook with its own defaults but the threshold, calibrated by itself at these very steps. It knows no experts: each
    is given its phase's steps and ratios, without which it would count wrong."""
    networks = [demo.model.transformers[phase.expert] for phase in schedule.phases]
    steps = [len(phase.steps) for phase in schedule.phases]
    ratios = diffusers_ratios(demo, schedule, networks, steps)
    for threshold in (0.03, 0.06, 0.12, 0.24):

        @contextmanager
        def opened(_: Schedule, threshold: float = threshold) -> Iterator[None]:
            with hooked(networks, steps, threshold=threshold, ratios=ratios):
                yield None

        yield CurvePoint(DIFFUSERS, f"{threshold:g}", opened)


@contextmanager
def hooked(
    networks: Sequence[nn.Module],
    steps: Sequence[int],
    *,
    threshold: float = 0.0,
    ratios: Sequence[Sequence[float]] | None = None,
) -> Iterator[None]:
    """diffusers' MagCache on each network; measuring where there are no ratios."""
    from diffusers.hooks import MagCacheConfig

    for number, (network, count) in enumerate(zip(networks, steps, strict=True)):
        told = {"calibrate": True} if ratios is None else {"mag_ratios": list(ratios[number]), "threshold": threshold}
        network.enable_cache(MagCacheConfig(num_inference_steps=count, **told))
    try:
        yield
    finally:
        for network in networks:
            network.disable_cache()


def diffusers_ratios(
    demo: DemoEngine, schedule: Schedule, networks: Sequence[nn.Module], steps: Sequence[int]
) -> list[list[float]]:
    """What its calibration prints at the end of each network's steps, on the clips that our tables are measured on."""
    batch, printed = demo.batch(CLIPS, FIRST_PROMPT), io.StringIO()
    with hooked(networks, steps), contextlib.redirect_stdout(printed):
        demo.latents(demo.request(schedule.steps), batch)
    lists = re.findall(r"^\[([^\]]*)\]$", printed.getvalue(), re.MULTILINE)
    return [[float(value) for value in text.split(",")] for text in lists]

"""DBCache with TaylorSeer on a native MODEL."""

from dataclasses import dataclass

from fastvideo_core import DBCacheSettings, why_no_cache
from fastvideo_core.step_cache import DBCache, unless

from .cache_run import Opened
from .generation import NativeGeneration


@dataclass(frozen=True)
class NativeDBCache:
    """What the node puts on a MODEL."""

    settings: DBCacheSettings
    name: str = "FastVideo DBCache"

    def open(self, generation: NativeGeneration) -> Opened:
        schedule, phases = generation.part(None)
        cache = unless(why_no_cache(generation.recipes, schedule), DBCache(schedule, self.settings))
        return Opened(cache, schedule, phases)

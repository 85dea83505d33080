"""Step caches for `WanModel.generate`: each generation gets a fresh one, made for its schedule and its model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..checks import of_kind
from ..errors import LoadError
from ..wan.parts import PAIR, recognised
from .cache_dit import CacheDiT
from .calibration import fingerprints, in_order
from .choose import calibrated_tables, ratio_table, recommended
from .dbcache import DBCache
from .dbcache_settings import DBCACHE_PRESETS, DBCacheSettings
from .ratios import Networks, RatioTable, read_table
from .residuals import MagCache
from .settings import MagCacheSettings

if TYPE_CHECKING:
    from ..wan.generation import Generation


def with_magcache(
    settings: MagCacheSettings | None = None, tables: Sequence[Path | str] = (), table: RatioTable | None = None
) -> "Callable[[Generation], MagCache]":
    """MagCache, as `cache` of `WanModel.generate`.

    Args:
        settings: those that the table's authors use when None.
        tables: folders with calibrated ratio tables, beside `model.ratio_tables`; one that was measured on the model comes
            before the published one.
        table: the one to use, whatever lies there.

    The generation raises:
        LoadError: there is no table for its model.
        RequestError: the table does not fit its schedule.
    """
    of_kind("settings", settings, (MagCacheSettings, type(None)), "give MagCacheSettings(...), or None.")
    of_kind("table", table, (RatioTable, type(None)), "give a RatioTable, or None.")

    def make(generation: "Generation") -> MagCache:
        chosen = table or table_of(generation, tables)
        return MagCache(generation.guidance.schedule, chosen, settings or recommended(chosen), networks_of(generation))

    return make


def with_dbcache(settings: DBCacheSettings | None = None) -> "Callable[[Generation], DBCache]":
    """DBCache, as `cache` of `WanModel.generate`."""
    of_kind("settings", settings, (DBCacheSettings, type(None)), "give DBCacheSettings(...), or None.")
    return lambda generation: DBCache(generation.guidance.schedule, _fitting(settings, generation))


def with_cache_dit(settings: DBCacheSettings | None = None) -> "Callable[[Generation], CacheDiT]":
    """cache-dit's own DBCache, as `cache` of `WanModel.generate`.

    The generation raises:
        RequestError: the package is not installed, or cannot do what the settings ask.
    """
    of_kind("settings", settings, (DBCacheSettings, type(None)), "give DBCacheSettings(...), or None.")
    return lambda generation: CacheDiT(generation.guidance.schedule, _fitting(settings, generation))


def _fitting(settings: DBCacheSettings | None, generation: "Generation") -> DBCacheSettings:
    """Raises RequestError where they leave none of the network's blocks to skip."""
    chosen = settings or DBCACHE_PRESETS["auto"]
    for transformer in generation.transformers.values():
        chosen.outer_blocks(len(transformer.blocks))
    return chosen


def networks_of(generation: "Generation") -> Networks:
    """The experts that work in a generation, with their weights."""
    return dict(zip(in_order(generation.transformers), fingerprints(generation.transformers), strict=True))


def table_of(generation: "Generation", tables: Sequence[Path | str] = ()) -> RatioTable:
    """The ratio table that fits a generation: the one of its experts together. tables: folders with calibrated ones, beside
    `model.ratio_tables`.

    Raises:
        LoadError: there is none.
    """
    model, folders = generation.model, [*map(Path, tables), *generation.model.ratio_tables]
    weights, names = list(networks_of(generation).values()), set(generation.transformers)
    two_experts = len(names) > 1 or names < PAIR <= set(model.transformers)
    if len(names) > 1 and names != PAIR:
        orders = (weights, weights[::-1])  # their names do not tell which of two is the high-noise one
        measured = [file for order in orders for file in calibrated_tables(order, folders, two_experts=True)]
        if not measured:
            raise LoadError(
                f"MagCache has no ratio table for the experts {', '.join(generation.transformers)} together: published tables "
                "are for high_noise and low_noise of one checkpoint, and each table serves one expert or two. Name the two of a "
                "Wan 2.2 checkpoint so, calibrate both, use with_dbcache(), or give `table`."
            )
        return read_table(measured[0])
    return ratio_table(
        weights,
        folders,
        recognised(model.transformers),
        two_experts=two_experts,
        pixels=generation.size.width * generation.size.height,
        first_frame=generation.conditioning.first_frame is not None,
    )

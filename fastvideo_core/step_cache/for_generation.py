"""Step caches for `WanModel.generate`: each generation gets a fresh one, made for its schedule and its model."""

from collections.abc import Callable, Mapping, Sequence
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
from .fingerprint import Fingerprint
from .magcaches import MagCaches
from .ratios import Networks, RatioTable, read_table
from .residuals import MagCache
from .settings import MagCacheSettings

if TYPE_CHECKING:
    from ..wan.generation import Generation


def with_magcache(
    settings: MagCacheSettings | None = None, tables: Sequence[Path | str] = (), table: RatioTable | None = None
) -> "Callable[[Generation], MagCache | MagCaches]":
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

    def make(generation: "Generation") -> MagCache | MagCaches:
        schedule, networks = generation.guidance.schedule, networks_of(generation)
        own = {} if table else own_tables(generation, tables)
        if own:
            return MagCaches({
                expert: MagCache(schedule, found, settings or recommended(found), {expert: networks[expert]})
                for expert, found in own.items()
            })  # fmt: skip
        chosen = table or table_of(generation, tables)
        return MagCache(schedule, chosen, settings or recommended(chosen), networks)

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
    model, names, weights = generation.model, set(generation.transformers), list(networks_of(generation).values())
    folders = _folders(generation, tables)
    if _named_otherwise(generation):
        measured = _joint(weights, folders)
        if not measured:
            raise LoadError(
                f"MagCache has no ratio table for the experts {', '.join(generation.transformers)}: published ones are for a "
                "single expert, or for high_noise and low_noise of one checkpoint, and none was measured on both together or on "
                "each by itself. Calibrate each as a model of its own, use with_dbcache(), or give `table`."
            )
        return read_table(measured[0])
    return ratio_table(
        weights,
        folders,
        recognised(model.transformers),
        two_experts=len(names) > 1 or names < PAIR <= set(model.transformers),
        pixels=generation.size.width * generation.size.height,
        first_frame=generation.conditioning.first_frame is not None,
    )


def own_tables(generation: "Generation", tables: Sequence[Path | str] = ()) -> Mapping[str, RatioTable]:
    """The ratio tables of experts that are no pair, each measured on one of them as a model of its own; none where the experts
    have one together, or where one of them has none. tables: as for `table_of`."""
    if not _named_otherwise(generation):
        return {}
    networks, folders = networks_of(generation), _folders(generation, tables)
    if _joint(list(networks.values()), folders):
        return {}
    found = {expert: calibrated_tables([network], folders, two_experts=False) for expert, network in networks.items()}
    return {expert: read_table(files[0]) for expert, files in found.items()} if all(found.values()) else {}


def _folders(generation: "Generation", tables: Sequence[Path | str]) -> list[Path]:
    return [*map(Path, tables), *generation.model.ratio_tables]


def _named_otherwise(generation: "Generation") -> bool:
    """Whether its experts are several and not, by their names, the pair of one checkpoint."""
    return len(generation.transformers) > 1 and set(generation.transformers) != PAIR


def _joint(weights: Sequence[Fingerprint], folders: Sequence[Path]) -> list[Path]:
    """Tables that were measured on both of two experts; their names do not tell which is the high-noise one."""
    return [file for order in (weights, weights[::-1]) for file in calibrated_tables(order, folders, two_experts=True)]

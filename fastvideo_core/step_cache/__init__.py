"""Step caches: steps that reuse what an earlier one computed, by rules known before the run."""

from .aside import StandingAside, unless
from .cache_dit import CacheDiT, CacheDiTSession
from .calibration import Calibration, calibrate, fingerprints, measured_table, weights_hash
from .choose import calibrated_tables, ratio_table, recommended
from .dbcache import DBCache, DBCacheSession
from .dbcache_settings import DBCACHE_PRESETS, DBCacheSettings
from .decisions import CachePlan, Decision, PhaseDecisions
from .experts import CachedDenoiser, CachedExperts
from .fingerprint import Fingerprint, fingerprint
from .for_generation import table_of, with_cache_dit, with_dbcache, with_magcache
from .magcache import PhaseRule, make_rule, plan_magcache
from .ratios import Networks, PhaseRatios, RatioTable, published_tables, read_table
from .reading import steps_beyond
from .residuals import MagCache, MagCacheSession
from .session import BlockwiseSession, BlockwiseStack, CacheSession, Counts, Sessions, StepCache, cache_report
from .settings import MagCacheMode, MagCacheSettings

__all__ = [
    "DBCACHE_PRESETS", "BlockwiseSession", "BlockwiseStack", "CacheDiT", "CacheDiTSession", "CachePlan", "CacheSession",
    "CachedDenoiser", "CachedExperts", "Calibration", "Counts", "DBCache", "DBCacheSession", "DBCacheSettings", "Decision",
    "Fingerprint", "MagCache", "MagCacheMode", "MagCacheSession", "MagCacheSettings", "Networks", "PhaseDecisions",
    "PhaseRatios", "PhaseRule", "RatioTable", "Sessions", "StandingAside", "StepCache", "cache_report", "calibrate",
    "calibrated_tables", "fingerprint", "fingerprints", "make_rule", "measured_table", "plan_magcache", "published_tables",
    "ratio_table", "read_table", "recommended", "steps_beyond", "table_of", "unless", "weights_hash", "with_cache_dit",
    "with_dbcache", "with_magcache",
]  # fmt: skip

"""Step caches: steps that reuse what an earlier one computed, by rules known before the run."""

from .calibration import Calibration, calibrate, weights_hash
from .experts import CachedDenoiser, CachedExperts, CacheSession, StepCache
from .magcache import Decision, MagCachePlan, PhaseDecisions, PhaseRule, make_rule, plan_magcache
from .ratios import PhaseRatios, RatioTable, published_tables, read_table
from .residuals import MagCache, MagCacheSession, MagCacheStack
from .settings import MagCacheMode, MagCacheSettings

__all__ = [
    "CacheSession", "CachedDenoiser", "CachedExperts", "Calibration", "Decision", "MagCache", "MagCacheMode", "MagCachePlan",
    "MagCacheSession", "MagCacheSettings", "MagCacheStack", "PhaseDecisions", "PhaseRatios", "PhaseRule", "RatioTable",
    "StepCache", "calibrate", "make_rule", "plan_magcache", "published_tables", "read_table", "weights_hash",
]  # fmt: skip

"""What a person may set of DBCache."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..checks import number, whole, yes_or_no
from ..errors import RequestError
from ..schedule import Phase

PUBLISHED_FIRST_BLOCKS = 8
"""cache-dit 1.5.3 (Apache-2.0), DBCacheConfig.Fn_compute_blocks."""
PUBLISHED_DEPTH = 30
"""Blocks of Wan 2.1 1.3B, the shallowest published Wan: there and in deeper ones the published number is taken as it is."""
CHANGE = 5.0
"""Over a generation: each of n steps may change by 5 / n of it. Fewer steps are larger ones, and a threshold that skips half of
40 on the demo model computes nearly all of 20."""
HIGHEST = 0.3
THRESHOLD = "it is 0 (off) or more, usually 0.05 to 0.2, and below 1, where the difference is as large as what is compared."
WARMUP = 0.2
"""cache-dit's 8 steps (DBCacheConfig.max_warmup_steps) of Wan's 40, as a fraction."""


@dataclass(frozen=True, kw_only=True)
class DBCacheSettings:
    """When a step may reuse what the middle blocks added in earlier ones (DBCache of cache-dit, with TaylorSeer,
    Liu et al. 2025, arXiv 2503.06923).

    threshold: relative L1 distance between what the first blocks add in this step and in the last computed one, from which
        the step computes; 0 is off. None: 5 divided by the steps of the generation, 0.3 at most.
    first_blocks: how many blocks always run and decide (F). None: 8, and in networks of less than 30 blocks in proportion.
    last_blocks: how many blocks at the end always run (B).
    warmup_steps: first steps of each phase that always compute. None: a fifth of the phase.
    low_noise_warmup_steps: of phases of the expert low_noise; the same as `warmup_steps` when None.
    max_skips: steps in a row that may be skipped; any when None.
    max_skipped_steps: steps of each phase that may be skipped; any when None.
    low_noise_max_skipped_steps: of phases of the expert low_noise; the same as `max_skipped_steps` when None.
    taylor_order: highest derivative with which the middle blocks' residual is continued; 0 reuses it as it is.
    residuals_on_cpu: whether the residuals wait in the computer's memory, not on the GPU.
    """

    threshold: float | None = None
    first_blocks: int | None = None
    last_blocks: int = 0
    warmup_steps: int | None = None
    low_noise_warmup_steps: int | None = None
    max_skips: int | None = None
    max_skipped_steps: int | None = None
    low_noise_max_skipped_steps: int | None = None
    taylor_order: int = 1
    residuals_on_cpu: bool = False

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= number("DBCache's threshold", self.threshold, THRESHOLD) < 1:
            raise RequestError(f"DBCache's threshold is {self.threshold}: {THRESHOLD}")
        least = {
            "first_blocks": 1, "last_blocks": 0, "warmup_steps": 0, "low_noise_warmup_steps": 0, "max_skips": 1,
            "max_skipped_steps": 1, "low_noise_max_skipped_steps": 1, "taylor_order": 0,
        }  # fmt: skip
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None or name in ("last_blocks", "taylor_order"):
                whole(f"DBCache's {name}", value, f"it is {minimum} or more. Threshold 0 switches the cache off.", minimum)
        yes_or_no("DBCache's residuals_on_cpu", self.residuals_on_cpu)

    def threshold_in(self, steps: float) -> float:
        """Of a generation of so many steps."""
        return min(HIGHEST, CHANGE / steps) if self.threshold is None else self.threshold

    def outer_blocks(self, count: int) -> tuple[int, int]:
        """How many blocks always run at the start and at the end of a network of `count` blocks.

        Raises:
            RequestError: no block is left in between.
        """
        first = self.first_blocks
        if first is None:
            first = min(PUBLISHED_FIRST_BLOCKS, max(1, round(count * PUBLISHED_FIRST_BLOCKS / PUBLISHED_DEPTH)))
        if first + self.last_blocks >= count:
            raise RequestError(
                f"DBCache's first_blocks {first} and last_blocks {self.last_blocks} leave none of the network's {count} blocks "
                f"to skip. Set their sum to {count - 1} at most, or leave first_blocks at auto."
            )
        return first, self.last_blocks

    def warmup(self, phase: Phase) -> int:
        """How many steps at the start of a phase always compute."""
        own = self._of(phase, self.warmup_steps, self.low_noise_warmup_steps)
        return round(len(phase.steps) * WARMUP) if own is None else own

    def skippable(self, phase: Phase) -> int | None:
        """How many steps of a phase may be skipped; any number when None."""
        return self._of(phase, self.max_skipped_steps, self.low_noise_max_skipped_steps)

    def _of(self, phase: Phase, value: int | None, low_noise: int | None) -> int | None:
        return low_noise if phase.expert == "low_noise" and low_noise is not None else value


DBCACHE_PRESETS: Mapping[str, DBCacheSettings] = MappingProxyType(
    {
        "auto": DBCacheSettings(max_skips=3),
        "quality": DBCacheSettings(threshold=0.08),
        "performance": DBCacheSettings(threshold=0.15),
    }
)
"""auto: on the demo models as many block calls are saved as with any number of skips in a row, and the videos are nearer to the
dense ones (BENCHMARKS.md). The others are cache-dit's."""

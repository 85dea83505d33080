"""What a person may set of MagCache."""

from dataclasses import dataclass
from typing import Literal, get_args

from ..checks import number, one_of, part_of, put, share, whole, yes_or_no
from ..errors import RequestError
from ..schedule import Phase

MagCacheMode = Literal["resampled", "nearest", "official"]
THRESHOLD = "it is 0 (off) or more, usually 0.02 to 0.24."


@dataclass(frozen=True, kw_only=True)
class MagCacheSettings:
    """When a step may reuse the residual of an earlier one (Ma et al. 2025, arXiv 2506.09045).

    threshold: sum of the estimated errors over skipped steps that makes the next step compute; 0 is off.
    max_skips: steps in a row that may be skipped (the paper's K).
    retention: fraction of a phase's first steps that always compute.
    low_noise_retention: of phases whose ratios are those of the table's low-noise expert; the same as `retention` when None.
    mode: how a ratio table is read. "resampled" reads it by noise level, for any steps, shift and scheduler; "nearest"
        by step number, as MagCache's authors do for other step counts; "official" wants the table's own schedule.
    trend: how far a skipped step continues the residual's last change, in proportion to the noise level: 0 reuses the residual
        as it is, as MagCache's authors do; 1 goes straight on from the last two computed ones. A second tensor per branch.
    residuals_on_cpu: whether the residuals wait in the computer's memory, not on the GPU.
    """

    threshold: float
    max_skips: int
    retention: float = 0.2
    low_noise_retention: float | None = None
    trend: float = 0.0
    mode: MagCacheMode = "resampled"
    residuals_on_cpu: bool = False

    def __post_init__(self) -> None:
        if number("MagCache's threshold", self.threshold, THRESHOLD) < 0:
            raise RequestError(f"MagCache's threshold is {self.threshold}: {THRESHOLD}")
        whole("MagCache's max_skips", self.max_skips, "it is 1 or more. Threshold 0 switches the cache off.", least=1)
        for name in ("retention", "low_noise_retention"):
            value = getattr(self, name)
            if value is not None or name == "retention":
                why = "it is the fraction of steps that always compute, 0 to 1."
                put(self, **{name: share(f"MagCache's {name}", value, why)})
        put(self, trend=share("MagCache's trend", self.trend, "it lies between 0 (off) and 1."))
        one_of("MagCache's mode", self.mode, get_args(MagCacheMode))
        yes_or_no("MagCache's residuals_on_cpu", self.residuals_on_cpu)

    def retained_steps(self, phase: Phase) -> int:
        """How many steps at the start of a phase always compute: whole steps, so that no branch lags behind the other."""
        low = phase.expert == "low_noise" and self.low_noise_retention is not None
        retention = self.low_noise_retention if low else self.retention
        return part_of(len(phase.steps), retention or 0.0)

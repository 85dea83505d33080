"""What a run was spared of its work, as shares in words: by step caches, by the gate, by sparse self-attention."""

from collections.abc import Iterator, Sequence

from .cache import CacheReport
from .phases import PhaseReport
from .sparse import SparseReport, share_computed


def work_saved(
    phases: Sequence[PhaseReport], caches: Sequence[CacheReport], sparse: Sequence[SparseReport], ratio: float | None = None
) -> Iterator[str]:
    """ratio: how many times as fast the step caches made the run; None where that is not known."""
    for name in dict.fromkeys(cache.name for cache in caches if cache.blocks_asked and not cache.aside):
        mine = [cache for cache in caches if cache.name == name]
        cut = 1 - sum(cache.blocks_ran for cache in mine) / sum(cache.blocks_asked for cache in mine)
        yield f"{cut:.0%} of the block calls saved by {name}" + ("" if ratio is None else f" (about {ratio:.2f} times as fast)")
    reused = sum(phase.reused_negative for phase in phases)
    if reused:
        yield f"{reused / (reused + _branches(phases)):.0%} of the branches saved by the gate"
    computed = share_computed(sparse)
    if computed is not None:
        names = " and ".join(dict.fromkeys(row.variant for row in sparse))
        yield f"{1 - computed:.0%} of self-attention's pairs of tokens saved by {names}"


def _branches(phases: Sequence[PhaseReport]) -> int:
    """How often one was computed."""
    return sum(int(size) * count for phase in phases for size, count in phase.calls.items())

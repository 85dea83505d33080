"""What sparse self-attention did."""

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class SparseReport:
    """What sparse self-attention did in one phase.

    settings: of the variant, as asked. sparse_calls, dense_calls: of self-attention, one per layer and call of the network.
    density: mean share of the pairs of tokens that sparse calls computed; None where there was none.
    """

    expert: str
    variant: str
    settings: dict[str, object]
    sparse_calls: int
    dense_calls: int
    density: float | None

    def line(self) -> str:
        """As a person reads it."""
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        calls = f"{self.sparse_calls} of {self.sparse_calls + self.dense_calls} calls"
        density = "" if self.density is None else f", which computed {self.density:.1%} of the pairs of tokens"
        head = f"sparse self-attention of the {self.expert.replace('_', '-')} expert: {self.variant} ({settings})"
        return f"{head} in {calls}{density}"


def of_all_ranks(rows: Sequence[SparseReport]) -> tuple[SparseReport, str]:
    """Of one phase on several ranks, each with its own heads or its own branch: the mean density, and a note of the densest
    rank's, for which the others wait; empty where all are alike."""
    densities = [row.density for row in rows if row.density is not None]
    if not densities:
        return rows[0], ""
    mean, most = sum(densities) / len(densities), max(densities)
    told = f"{rows[0].variant} of the densest rank's heads computed {most:.1%} of the pairs of tokens, and the others wait for it"
    return replace(rows[0], density=mean), told if most > mean else ""


def share_computed(reports: Sequence[SparseReport]) -> float | None:
    """The share of self-attention's pairs of tokens that was computed over all calls; None where nothing was sparse."""
    calls = sum(report.sparse_calls + report.dense_calls for report in reports)
    computed = sum(report.sparse_calls * (report.density or 0.0) + report.dense_calls for report in reports)
    return computed / calls if calls else None

"""What a step cache did."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CachePhaseReport:
    """What a step cache did in one branch of one phase.

    first_step: of the phase, from 0 in the run; an expert may have several phases.
    plan: a letter per step: C computed, S skipped, - where the branch did not run. reasons: why steps computed, and how many.
    """

    expert: str
    first_step: int
    branch: str
    plan: str
    computed: int
    skipped: int
    reasons: dict[str, int]

    def line(self) -> str:
        """As a person reads it."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.reasons.items())
        name = self.expert.replace("_", "-")
        calls = self.computed + self.skipped
        return f"  {name} {self.branch}: {self.plan} ({self.skipped} of {calls} skipped; computed: {reasons})"


@dataclass(frozen=True, kw_only=True)
class CacheReport:
    """What a step cache did in one generation.

    settings: as asked. aside: why it did nothing; empty where it worked. bypassed: calls that it let pass.
    blocks_ran, blocks_asked: runs of a transformer block, with the cache and without. peak_bytes: the most memory it held.
    """

    name: str
    settings: dict[str, str | float | int | bool | None]
    phases: tuple[CachePhaseReport, ...]
    aside: str
    bypassed: int
    blocks_ran: int
    blocks_asked: int
    peak_bytes: int

    @property
    def block_cut(self) -> float:
        """The share of block runs saved, 0..1."""
        return 1 - self.blocks_ran / self.blocks_asked if self.blocks_asked else 0.0

    @property
    def skipped_steps(self) -> int:
        """Those in which it skipped, be it one branch only."""
        phases = {row.first_step: [each.plan for each in self.phases if each.first_step == row.first_step] for row in self.phases}
        return sum("S" in letters for plans in phases.values() for letters in zip(*plans, strict=True))

    def lines(self) -> list[str]:
        """As a person reads it."""
        if self.aside:
            return [f"{self.name} stands aside: {self.aside}"]
        head = f"{self.name}: {self.block_cut:.0%} of the block calls saved, held {self.peak_bytes / 2**20:.1f} MiB at most"
        passed = [f"  {self.bypassed} more calls were not steps of their own: they just ran"] if self.bypassed else []
        return [head, *(phase.line() for phase in self.phases), *passed]

"""What a run did, as data: read by people on the canvas and by programs as JSON. It states what ran, not what was asked."""

import json
from collections import Counter
from dataclasses import asdict, dataclass

from .guidance import Guidance
from .step_times import Span, StepTimes, median


@dataclass(frozen=True, kw_only=True)
class PhaseReport:
    """One phase. calls: transformer calls by their number of branches, e.g. {"2": 20} for 20 batched calls."""

    expert: str
    steps: int
    first_sigma: float
    guidance_scale: float
    calls: dict[str, int]
    reused_negative: int


@dataclass(frozen=True, kw_only=True)
class CachePhaseReport:
    """What a step cache did in one branch of one phase.

    plan: a letter per step: C computed, S skipped, - where the branch did not run. reasons: why steps computed, and how many.
    """

    expert: str
    branch: str
    plan: str
    computed: int
    skipped: int
    reasons: dict[str, int]


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

    def lines(self) -> list[str]:
        """As a person reads it."""
        if self.aside:
            return [f"{self.name} stands aside: {self.aside}"]
        head = f"{self.name}: {self.block_cut:.0%} of the block calls saved, held {self.peak_bytes / 2**20:.1f} MiB at most"
        passed = [f"  {self.bypassed} more calls were not steps of their own: they just ran"] if self.bypassed else []
        return [head, *(_cache_line(phase) for phase in self.phases), *passed]


@dataclass(frozen=True, kw_only=True)
class AttentionReport:
    """What computed self- or cross-attention (`part`) of one expert.

    asked: a backend's name, or "auto". calls: how often it ran; 0 where all of it was in compiled blocks, which do not count.
    network_calls: of the whole network. rejected: of each other backend, why it was not chosen. exact_calls: of exact_backend,
    where the network wants full precision and the chosen backend has less.
    """

    expert: str
    part: str
    asked: str
    backend: str
    why: str
    calls: int
    network_calls: int
    rejected: dict[str, tuple[str, ...]]
    exact_backend: str = ""
    exact_calls: int = 0

    def lines(self) -> list[str]:
        """As a person reads it."""
        counted = self.calls or self.exact_calls or not self.network_calls
        ran = f"{self.calls} calls" if counted else "compiled blocks, which do not count"
        if self.exact_calls:
            ran += f" and {self.exact_calls} by {self.exact_backend}, where the network wants full precision,"
        network = f"{self.network_calls} of the network"
        return [f"{self.part} of the {self.expert.replace('_', '-')} expert: {self.backend} ({self.why}), {ran} in {network}"]


@dataclass(frozen=True, kw_only=True)
class TextReport:
    """How cross-attention of one expert read the texts that have `rows` rows.

    read: how many it computed with, the same number where the zero rows were not folded. why: they were not. keys_kept: keys and
    values were computed once per phase.
    """

    expert: str
    rows: int
    read: int
    why: str
    keys_kept: bool

    def line(self) -> str:
        """As a person reads it."""
        head = f"text of the {self.expert.replace('_', '-')} expert: "
        if self.read == self.rows:
            return f"{head}all {self.rows} rows read ({self.why})"
        return f"{head}{self.rows} rows folded into {self.read}" + ", keys and values kept over the steps" * self.keys_kept


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


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """One generation. step_seconds: one per step; peak_memory_bytes: on the device, None where it is not counted; caches: one
    per expert where each has its own, one in all otherwise; prompt_seconds: from its begin to the decoded frames, where a
    host tells; attention: where it was chosen, two per expert; sparse: one per sparse phase; texts: where
    it is known how they were read; patches: by name, what else changes the network's work (compiled blocks, a host's patches),
    step caches apart; prompt: the host's name of the prompt that the run belongs to, where there is one."""

    model: str
    variant: str
    solver: str
    sigmas: tuple[float, ...]
    guidance_mode: str
    guidance_reason: str
    phases: tuple[PhaseReport, ...]
    latent_shape: tuple[int, ...]
    device: str
    dtype: str
    seed: int
    step_seconds: tuple[float, ...]
    total_seconds: float
    peak_memory_bytes: int | None
    notes: tuple[str, ...] = ()
    caches: tuple[CacheReport, ...] = ()
    prompt_seconds: float | None = None
    attention: tuple[AttentionReport, ...] = ()
    sparse: tuple[SparseReport, ...] = ()
    texts: tuple[TextReport, ...] = ()
    patches: tuple[str, ...] = ()
    prompt: str | None = None

    @property
    def seconds_saved(self) -> Span | None:
        """By step caches, as in `StepTimes.saved`."""
        return StepTimes.of([self]).saved()

    def json(self) -> str:
        saved = self.seconds_saved
        return json.dumps({**asdict(self), "seconds_saved": None if saved is None else saved._asdict()}, indent=2)

    def text(self) -> str:
        """The report as a person reads it."""
        steps = len(self.step_seconds)
        lines = [
            f"{self.model} ({self.variant}), {self.dtype} on {self.device}",
            f"{steps} steps {self.solver}, latents {'x'.join(map(str, self.latent_shape))}, seed {self.seed}",
            *(_phase_line(phase) for phase in self.phases),
            f"guidance: {self.guidance_mode} ({self.guidance_reason})",
            f"time: {self.total_seconds:.1f} s, {median(self.step_seconds):.3f} s per step (median)",
        ]
        if self.prompt_seconds is not None:
            lines.append(f"whole prompt, with text and VAE: {self.prompt_seconds:.1f} s since it began")
        if self.peak_memory_bytes is not None:
            lines.append(f"peak memory: {self.peak_memory_bytes / 2**30:.2f} GiB")
        lines += [line for part in self.attention for line in part.lines()]
        lines += [part.line() for part in self.texts]
        lines += [part.line() for part in self.sparse]
        lines += [line for cache in self.caches for line in cache.lines()]
        if self.seconds_saved is not None:
            lines.append(_saved_line(self.seconds_saved))
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def phase_reports(guidance: Guidance) -> tuple[PhaseReport, ...]:
    """The phases of a finished (or interrupted) generation, from its account of calls."""
    reports = []
    for phase in guidance.schedule.phases:
        calls = [call for call in guidance.calls if call.step in phase.steps]
        with_negative = {call.step for call in calls if "negative" in call.branches}
        reused = len({call.step for call in calls} - with_negative) if phase.guided else 0
        sizes = Counter(str(len(call.branches)) for call in calls)
        reports.append(
            PhaseReport(
                expert=phase.expert,
                steps=len(phase.steps),
                first_sigma=guidance.schedule.sigmas[phase.start],
                guidance_scale=phase.guidance_scale,
                calls=dict(sorted(sizes.items())),
                reused_negative=reused,
            )
        )
    return tuple(reports)


def ran_as(guidance: Guidance) -> tuple[str, str]:
    """How the guided steps of a generation ran ("batched", "sequential", "off"), and why."""
    guided = {call.step for call in guidance.calls if "negative" in call.branches}
    if not guided:
        return "off", "no step ran the negative branch"
    joined = all(len(call.branches) == 2 for call in guidance.calls if call.step in guided)
    return "batched" if joined else "sequential", guidance.reason


def _phase_line(phase: PhaseReport) -> str:
    calls = ", ".join(f"{n} x {size} branch{'' if size == '1' else 'es'}" for size, n in phase.calls.items())
    gate = f"; negative branch reused in {phase.reused_negative} steps" if phase.reused_negative else ""
    name = phase.expert.replace("_", "-")
    return (
        f"{name} expert: {phase.steps} steps from sigma {phase.first_sigma:.3f}, guidance scale "
        f"{phase.guidance_scale:g}; calls: {calls or 'none'}{gate}"
    )


def _cache_line(phase: CachePhaseReport) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in phase.reasons.items())
    name = phase.expert.replace("_", "-")
    calls = phase.computed + phase.skipped
    return f"  {name} {phase.branch}: {phase.plan} ({phase.skipped} of {calls} skipped; computed: {reasons})"


def _saved_line(saved: Span) -> str:
    if saved.low <= 0:
        return f"time saved: not distinguishable from none ({saved.low:.2f} to {saved.high:.2f} s, by the spread of the steps)"
    between = f"({saved.low:.2f} - {saved.high:.2f})"
    return f"time saved: about {saved.middle:.2f} s {between}, by the medians of computed and skipped steps"

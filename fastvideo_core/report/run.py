"""What a run did, as data: read by people on the canvas and by programs as JSON. It states what ran, not what was asked."""

import json
from dataclasses import asdict, dataclass

from ..words import counted
from .attention import AttentionReport
from .cache import CacheReport
from .contribution import Contribution
from .phases import PhaseReport
from .saved import work_saved
from .sparse import SparseReport
from .step_times import Span, StepTimes, median
from .text import TextReport

VERSION = 1
"""Of the JSON, for programs that read it: another one where a key goes or means something else. Keys may come under the same."""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """One generation. step_seconds: one per step that it made; first_step: the first of these, where it goes on from a state;
    peak_memory_bytes: on the device, None where it is not counted; caches: one per expert where each has its own, one in all
    otherwise; prompt_seconds: from its begin to the decoded frames, where a host tells; networks: distinct ones that worked,
    each read from disk once; moves: how often the weights of one were brought to the device, 0 where that is not counted;
    attention: where it was chosen, two per expert; sparse: one per sparse phase; texts: where it is known how they were read;
    patches: by name, what else changes the network's work (compiled blocks, a host's patches), step caches apart; prompt: the
    host's name of the prompt that the run belongs to, where there is one."""

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
    networks: int = 0
    moves: int = 0
    first_step: int = 0

    @property
    def seconds_saved(self) -> Span | None:
        """By step caches, as in `StepTimes.saved`."""
        return StepTimes.of([self]).saved()

    def json(self) -> str:
        """`VERSION` as "version", the fields, and "seconds_saved"."""
        saved = None if self.seconds_saved is None else self.seconds_saved._asdict()
        return json.dumps({"version": VERSION, **asdict(self), "seconds_saved": saved}, indent=2)

    @property
    def headline(self) -> str:
        """One line: seconds, speed, and what was spared."""
        spared = ", ".join(work_saved(self.phases, self.caches, self.sparse, self._ratio))
        return f"{self.total_seconds:.1f} s, {self.seconds_per_step:.3f} s per step" + (f"; {spared}" if spared else "")

    @property
    def seconds_per_step(self) -> float:
        """Their median."""
        return median(self.step_seconds)

    @property
    def _ratio(self) -> float | None:
        """How many times as fast step caches made it; None where that is not distinguishable from 1."""
        saved = self.seconds_saved
        if saved is None or saved.low <= 0:
            return None
        sampling = StepTimes.of([self]).total().middle
        return (sampling + saved.middle) / sampling

    def text(self) -> str:
        """The report as a person reads it."""
        steps = len(self.step_seconds)
        lines = [
            self.headline,
            f"{self.model} ({self.variant}), {self.dtype} on {self.device}",
            f"{counted(steps, 'step')} {self.solver}, latents {'x'.join(map(str, self.latent_shape))}, seed {self.seed}",
            *(phase.line() for phase in self.phases),
            f"guidance: {self.guidance_mode} ({self.guidance_reason})",
        ]
        if self.moves and len(self.phases) > 1:
            lines.append(f"networks: {self.networks}, their weights brought to the device {self.moves} times")
        if self.prompt_seconds is not None:
            lines.append(f"whole prompt, with text and VAE: {self.prompt_seconds:.1f} s since it began")
        if self.peak_memory_bytes is not None:
            lines.append(f"peak memory: {self.peak_memory_bytes / 2**30:.2f} GiB")
        parts = Contribution(attention=self.attention, texts=self.texts, sparse=self.sparse, caches=self.caches)
        lines += parts.lines()
        if self.seconds_saved is not None:
            lines.append(_saved_line(self.seconds_saved))
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _saved_line(saved: Span) -> str:
    if saved.low <= 0:
        return f"time saved: not distinguishable from none ({saved.low:.2f} to {saved.high:.2f} s, by the spread of the steps)"
    between = f"({saved.low:.2f} - {saved.high:.2f})"
    return f"time saved: about {saved.middle:.2f} s {between}, by the medians of computed and skipped steps"

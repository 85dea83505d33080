"""One rank against several, each a process with one thread: seconds of a call, their exchanges' share of it, and memory.

python -m tools.bench.scale RANK RANKS MEETING SIZE ROUNDS is one of the processes.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastvideo_core import TEXT_TOKENS, Conditioning, plan, shifted_sigmas
from fastvideo_core.guidance import BOTH
from fastvideo_core.parallel import Layout, Mesh, Ranks, joined
from fastvideo_core.wan.loading import load_transformer
from fastvideo_core.wan.ranked import PhaseOpening, RankExperts

from .clock import peak_bytes
from .contenders import NEGATIVE_PROMPT_TOKENS, PROMPT_TOKENS
from .measure import distance
from .sizes import SIZES, Size, write_weights

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """alone, together: seconds of one call over both branches, one per round; exchanging: of the latter, on the first rank, which
    waits there for the others too; peak_alone, peak: bytes above what is held before a call; error: relative, of the
    velocities."""

    ranks: int
    alone: tuple[float, ...]
    together: tuple[float, ...]
    exchanging: tuple[float, ...]
    peak_alone: int
    peak: int
    error: float

    @property
    def speed_up(self) -> float:
        """Median over rounds, in each of which both took their turn."""
        return statistics.median(alone / together for alone, together in zip(self.alone, self.together, strict=True))

    @property
    def share(self) -> float:
        return statistics.median(part / whole for part, whole in zip(self.exchanging, self.together, strict=True))


@dataclass(frozen=True)
class TimedRanks(Ranks):
    """Adds up the seconds of its exchanges."""

    seconds: list[float] = field(default_factory=lambda: [0.0])

    def _timed(self, exchange: Callable[..., Any], *given: Any) -> Any:
        started = time.perf_counter()
        out = exchange(*given)
        self.seconds[0] += time.perf_counter() - started
        return out

    def to_heads(self, parts: Sequence[Tensor], total: int) -> list[Tensor]:
        out: list[Tensor] = self._timed(super().to_heads, parts, total)
        return out

    def to_tokens(self, x: Tensor, total: int) -> Tensor:
        out: Tensor = self._timed(super().to_tokens, x, total)
        return out

    def gathered(self, x: Tensor, total: int) -> Tensor:
        out: Tensor = self._timed(super().gathered, x, total)
        return out


def run(size: str, rounds: int, ranks: int = 2) -> Scale:
    """Starts the processes, of which none is left afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        commands = [[str(rank), str(ranks), meeting, size, str(rounds)] for rank in range(ranks)]
        processes = [
            subprocess.Popen([sys.executable, "-m", "tools.bench.scale", *command], stdout=subprocess.PIPE, text=True)
            for command in commands
        ]
        try:
            told, _ = processes[0].communicate()
            if any(process.wait() for process in processes):
                raise SystemExit("A rank failed: see above.")
        finally:
            for process in processes:
                process.kill()
                process.wait()
    found = json.loads(told.splitlines()[-1])
    return Scale(**{name: tuple(value) if isinstance(value, list) else value for name, value in found.items()})


class Once(NamedTuple):
    """One call of a phase that was called before. peak: bytes above what is held before it."""

    seconds: float
    exchanging: float
    peak: int
    velocities: Tensor


def rank_main(rank: int, ranks: int, meeting: str, name: str, rounds: int) -> Scale:
    """What one of the processes does. While the first one computes alone, the others wait."""
    torch.set_num_threads(1)
    size = SIZES[name]
    alone, together = [], []
    with joined(Layout(1, ranks), rank, meeting) as mesh, joined(Layout(), 0, "") as one:
        with tempfile.TemporaryDirectory() as folder:
            network = load_transformer(write_weights(size, Path(folder)), size.dtype)
        for warm in (True, *[False] * rounds):
            if rank == 0:
                alone.append(once(network, one, size, warm))
            mesh.aside.sums(torch.zeros(1))
            together.append(once(network, mesh, size, warm))
    first, *others = together
    return Scale(
        ranks=ranks,
        alone=tuple(each.seconds for each in alone[1:]),
        together=tuple(each.seconds for each in others),
        exchanging=tuple(each.exchanging for each in others),
        peak_alone=alone[0].peak if alone else 0,
        peak=first.peak,
        error=distance(first.velocities, alone[0].velocities) or 0.0 if alone else 0.0,
    )


def once(network: Any, mesh: Mesh, size: Size, memory: bool) -> Once:
    """memory: whether its peak is looked at, which takes time."""
    seconds = [0.0]
    timed = replace(mesh, tokens=TimedRanks(mesh.tokens.rank, mesh.tokens.size, mesh.tokens.group, seconds))
    rank = RankExperts({"single": network}, timed, CPU, CPU)
    latents = torch.randn(size.shape, generator=torch.Generator().manual_seed(1))
    schedule = plan(shifted_sigmas(10, 5.0), 5.0)
    texts = [torch.zeros(1, TEXT_TOKENS, size.text_dim) for _ in BOTH]
    for text, rows in zip(texts, (PROMPT_TOKENS, NEGATIVE_PROMPT_TOKENS), strict=True):
        text[:, :rows] = torch.randn(rows, size.text_dim, generator=torch.Generator().manual_seed(rows))
    rank.load("single")
    rank.open(
        PhaseOpening(
            schedule=schedule, phase=schedule.phases[0], conditioning=Conditioning(positive=texts[0], negative=texts[1]),
            latent_shape=size.shape,
        )
    )  # fmt: skip

    def call() -> Tensor:
        return torch.stack(list(rank.denoiser.predict(latents, 0.9, BOTH).velocities))

    try:
        velocities = call()
        peak = peak_bytes(call, CPU) if memory else 0
        seconds[0], started = 0.0, time.perf_counter()
        call()
        return Once(time.perf_counter() - started, seconds[0], peak, velocities)
    finally:
        rank.offload()


if __name__ == "__main__":
    rank, ranks, meeting, size, rounds = sys.argv[1:]
    print(json.dumps(asdict(rank_main(int(rank), int(ranks), meeting, size, int(rounds)))))

"""What is counted on a GPU that is not there, and how a few of a network's blocks tell what all of them take."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

import fastvideo_core
from tools.simulated import Flops, SimulatedGPU, Waits, simulated
from tools.simulated.traffic import Traffic

ENGINE = Path(fastvideo_core.__file__).parent
CARD = 2**40
"""Bytes: so large that nothing is refused or put aside for want of memory."""
FEW = 2
"""Blocks of the networks that are counted, and one more. Their blocks are alike, so the difference is a block's."""
ANSWERS = {
    "fastvideo_core/generate.py:check_finite": lambda bad: 0,
    "fastvideo_core/step_cache/dbcache.py:DBCacheSession._difference": lambda change: 0.0,
}
"""What stands where a value is read: nothing has values."""


class Work(NamedTuple):
    """flops: of products and attention; read: bytes that products read and write, weights included; moved: bytes that all other
    operators read and write."""

    flops: float
    read: float
    moved: float

    def __add__(self, other: "Work") -> "Work":  # type: ignore[override]
        return Work(*(a + b for a, b in zip(self, other, strict=True)))

    def __sub__(self, other: "Work") -> "Work":
        return self + other.times(-1)

    def times(self, times: float) -> "Work":
        return Work(*(times * each for each in self))


NOTHING = Work(0, 0, 0)


@dataclass
class Counter:
    """In one run. works: of each step; peak: bytes on the GPU at the most, weights included; copied: bytes that came from the CPU
    in each step."""

    gpu: SimulatedGPU
    flops: Flops
    traffic: Traffic
    works: list[Work] = field(default_factory=list)
    copied: list[int] = field(default_factory=list)
    _before: tuple[Work, int] = (NOTHING, 0)

    def step(self) -> None:
        """One has ended."""
        now, copied = self._now(), sum(copy.nbytes for copy in self.gpu.held.copies if copy.target == "cuda")
        self.works.append(now - self._before[0])
        self.copied.append(copied - self._before[1])
        self._before = now, copied

    @property
    def peak(self) -> int:
        return self.gpu.held.peak

    def _now(self) -> Work:
        return Work(self.flops.total, self.traffic.products, self.traffic.values)


Answers = Mapping[str, Callable[[torch.Tensor], float]]


@contextmanager
def counting(folders: tuple[Path, ...] = (), answers: Answers = ANSWERS) -> Iterator[Counter]:
    """folders, answers: where values are read beside the engine, and which."""
    with (
        torch.no_grad(),  # in inference mode operators come whole that are counted by their parts
        simulated(CARD) as gpu,
        Flops() as flops,
        Traffic() as traffic,
        Waits([ENGINE, *folders], answers),
    ):
        yield Counter(gpu, flops, traffic)


@dataclass(frozen=True)
class Counted:
    """Of a network of all its blocks. works, copied: of each step; block: of one more block in each of them; peak: bytes on the
    GPU at the most, weights included."""

    works: tuple[Work, ...]
    block: tuple[Work, ...]
    copied: tuple[int, ...]
    peak: int


Counts = Mapping[str, Counted]
"""Of one video, by way."""


def of_all(count: Callable[[int], Counter], layers: int, least: int = FEW) -> Counted:
    """count: of a network of so many blocks. least: blocks from which on one more is like the one before."""
    few, more = count(least), count(least + 1)
    extra = layers - least

    def extended(few: int, more: int) -> int:
        return few + extra * (more - few)

    block = tuple(b - a for a, b in zip(few.works, more.works, strict=True))
    return Counted(
        tuple(work + each.times(extra) for work, each in zip(few.works, block, strict=True)), block,
        tuple(map(extended, few.copied, more.copied)), extended(few.peak, more.peak),
    )  # fmt: skip

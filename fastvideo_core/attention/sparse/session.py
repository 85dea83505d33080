"""Sparse self-attention in one phase of a generation: what is prepared once, whether a step is sparse, and what ran."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...report import SparseReport
from ...schedule import Phase
from ..compiling import apart
from .kernel import Kernel
from .schedule import SparseSchedule
from .tiles import Size
from .variant import Inputs, SparseAttention, SparseSettings


def as_it_is(attention: SparseAttention) -> SparseAttention:
    """Nothing around it."""
    return attention


@dataclass
class SparseSession:
    """One phase. `sparse` says whether the step at hand is; nothing else changes, so that compiled code stays valid. Calls and
    densities are summed on the device and read by `report` alone: no step waits for them."""

    expert: str
    settings: SparseSettings
    attention: SparseAttention
    dense_steps: int
    dense_layers: int
    sparse: bool = field(default=True, init=False)
    _sums: Tensor = field(
        init=False
    )  # float32, for there are devices without float64: sparse calls, their densities, dense calls

    @classmethod
    def open(
        cls,
        schedule: SparseSchedule,
        phase: Phase,
        size: Size,
        device: torch.device,
        kernel: Kernel,
        around: Callable[[SparseAttention], SparseAttention] = as_it_is,
    ) -> "SparseSession | None":
        """size: of the video, in tokens. None where the phase is dense."""
        settings = schedule.of(phase)
        if settings is None:
            return None
        attention = around(settings.prepare(size, device, kernel))
        session = cls(phase.expert, settings, attention, schedule.dense_steps, schedule.dense_layers)
        with torch.inference_mode(False):  # a tensor that may be written in any mode
            session._sums = torch.zeros(3, device=device)
        return session

    def begin(self, step: int) -> None:
        """A call of the network comes. step: of the generation, from 0."""
        self.sparse = step >= self.dense_steps

    def covers(self, layer: int) -> bool:
        """Whether this layer is sparse in sparse steps."""
        return layer >= self.dense_layers

    @staticmethod
    def outside(function: Callable[..., Any]) -> Callable[..., Any]:
        """What calls this session, as a piece of its own among compiled code. The gather kernel goes by values, for each of which
        torch would compile anew; and flex attention reads another map, without a word, where torch 2.11 compiles it for the CPU
        along with what computes its map."""
        return apart(function)

    def attend(self, inputs: Inputs) -> Tensor:
        attended = self.attention(inputs)
        self._sums[0].add_(1)
        self._sums[1].add_(attended.density)
        return attended.out

    def count_dense(self) -> None:
        self._sums[2].add_(1)

    def report(self) -> SparseReport:
        """What ran so far. It waits for the device."""
        sparse, densities, dense = self._sums.tolist()
        return SparseReport(
            expert=self.expert,
            variant=self.settings.name,
            settings=asdict(self.settings),  # type: ignore[call-overload]
            sparse_calls=int(sparse),
            dense_calls=int(dense),
            density=densities / sparse if sparse else None,
        )

"""A stop that all ranks take at the same place: one that stopped alone would leave the others waiting for it for ever."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import StoppedError
from .ranks import Ranks

AHEAD = 2
"""Blocks that a GPU's queue may hold: the host runs ahead of it by far, and would ask for a stop a whole call too early."""


class AgreedStop:
    """Asked before each block by every rank of a group. A block's answer is on its way while the one before it runs, so asking
    costs no wait, and a stop comes two blocks late at the most."""

    def __init__(self, ranks: Ranks, asked: Callable[[], bool]) -> None:
        """ranks: over the CPU, and of this alone: `Mesh.aside`. asked: whether this rank was told to stop."""
        self.ranks, self.asked = ranks, asked
        self._pending: tuple[dist.Work, Tensor] | None = None
        self._queued: list[torch.cuda.Event] = []

    def begin(self) -> None:
        """A call begins, or the last one is over: what was asked in the one before means nothing any more."""
        self._answered()
        self._queued.clear()

    def check(self, device: torch.device) -> None:
        """Before a block. device: where the blocks compute.

        Raises:
            StoppedError: a rank was told to stop; on all of them at once.
        """
        if self._answered() if self.ranks.size > 1 else self.asked():
            raise StoppedError("The call was stopped, as was asked, before it was through all blocks.")
        if self.ranks.size > 1:
            self._ask()
        if device.type == "cuda":
            self._hold()

    def _ask(self) -> None:
        told = torch.tensor([int(self.asked())], dtype=torch.int32, device="cpu")
        work = dist.all_reduce(told, group=self.ranks.group, async_op=True)
        assert work is not None
        self._pending = work, told

    def _answered(self) -> bool:
        """Whether any rank was told to, when it was last asked."""
        if self._pending is None:
            return False
        (work, told), self._pending = self._pending, None
        work.wait()
        return bool(told.item())

    def _hold(self) -> None:
        """Waits until the device has at most `AHEAD` blocks before it."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._queued.append(event)
        if len(self._queued) > AHEAD:
            self._queued.pop(0).synchronize()

"""In a rank's process: it becomes what it shall be, and answers. What goes to it and comes from it is data alone; tensors go as
their bytes, which Ray neither pickles nor copies within a machine."""

import gc
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import psutil
import torch
from torch import Tensor

from .group import Stop
from .layout import Layout
from .ranks import joined

PACK = Path(__file__).resolve().parents[2]
"""The folder that the engine lies in."""


class Where(NamedTuple):
    """What a rank tells of itself."""

    machine: str
    process: int


@dataclass(frozen=True)
class Entry:
    """What each rank shall be: what `function` of `module` returns for its `Mesh`, its `Stop` and `given`. Its methods are asked.
    paths: stand before sys.path there."""

    module: str
    function: str
    given: tuple[object, ...] = ()
    paths: tuple[str, ...] = ()


class RankHost:
    """threads: for torch on the CPU; 0 for all."""

    def __init__(self, threads: int) -> None:
        if (PACK / "nodes").is_dir():  # a pack's, which must not be found in the place of ComfyUI's own
            sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != PACK]
        if threads:
            torch.set_num_threads(threads)
        self._stop, self._joined = Stop(), ExitStack()
        self._rank: Any = None

    def become(self, entry: Entry, layout: Layout, rank: int, meeting: str) -> Where:
        sys.path[:0] = entry.paths
        if meeting.startswith("file:") and os.name == "posix":  # all are on this machine: nobody else can reach them
            os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback())
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        mesh = self._joined.enter_context(joined(layout, rank, meeting, backend))
        with _nothing_to_collect():
            self._rank = getattr(import_module(entry.module), entry.function)(mesh, self._stop, *entry.given)
        return Where(platform.node(), os.getpid())

    def answer(self, number: int, method: str, given: Sequence[object]) -> Any:
        self._stop.begin(number)
        return getattr(self._rank, method)(*given)

    def stop(self, number: int) -> None:
        """Comes while it answers."""
        self._stop.stop(number)


@contextmanager
def _nothing_to_collect() -> Iterator[None]:
    """While thousands of modules come, which stay: to look through them again and again takes a fifth of a rank's start, and each
    time a quarter of a second later."""
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def _loopback() -> str:
    """The network interface that this machine alone hears."""
    by_name = psutil.net_if_addrs()
    return str(next(name for name, found in by_name.items() if any(each.address == "127.0.0.1" for each in found)))


Written = tuple["numpy.ndarray[Any, Any]", torch.dtype, tuple[int, ...]]
"""A tensor's bytes, dtype and shape."""


def written(tensor: Tensor) -> Written:
    values = tensor.detach().cpu().contiguous()
    return values.view(-1).view(torch.uint8).numpy(), values.dtype, tuple(values.shape)


def read(written: Written) -> Tensor:
    """In memory of its own: what came is shared, and must not be written into."""
    values, dtype, shape = written
    tensor = torch.empty(shape, dtype=dtype, device="cpu")
    numpy.copyto(tensor.view(-1).view(torch.uint8).numpy(), values)
    return tensor

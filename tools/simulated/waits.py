"""Where a host waits for a GPU."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

READS = {"_local_scalar_dense", "item", "is_nonzero"}
SIZED_BY_VALUES = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount", "equal"}
"""Operations whose result the host must see before it goes on."""


class Wait(NamedTuple):
    """what: the operation, or a copy as "cpu -> cuda". where: file and function of the innermost code that is looked for."""

    what: str
    where: str


class Waits(TorchDispatchMode):
    """Lists what waits for the GPU: values read from it, sizes that depend on values, and copies from it and to it, but for those
    that are asked for without waiting (of pinned memory).

    A value that is read at a place in `values` is the one that stands there; any other raises, as there is none.
    """

    def __init__(self, folders: Sequence[Path], values: Mapping[str, Callable[[Tensor], float | int | bool]] = {}) -> None:
        """folders: of the code that is looked at: a place is the innermost function there."""
        super().__init__()
        self.folders, self.values = [f"{folder}/" for folder in folders], values
        self.found: list[Wait] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        there = [value for value in tree_iter((args, kwargs)) if isinstance(value, FakeTensor)]
        if there and (name in READS or name in SIZED_BY_VALUES or _by_mask(name, args)):
            place = self._add(name)
            if name in READS and place in self.values:
                return self.values[place](there[0])
        out = function(*args, **(kwargs or {}))
        if name in ("_to_copy", "copy_") and not ((kwargs or {}).get("non_blocking") or args[2:3] == (True,)):
            source, target = (args[1], args[0]) if name == "copy_" else (args[0], out)
            if source.device.type != target.device.type:
                self._add(f"{source.device.type} -> {target.device.type}")
        return out

    def _add(self, what: str) -> str:
        place = self.place()
        self.found.append(Wait(what, place))
        return place

    def place(self) -> str:
        """As folder/file.py:Class.function."""
        for file, function in _frames():
            for folder in self.folders:
                if file.startswith(folder):
                    return f"{Path(folder).name}/{file.removeprefix(folder)}:{function.split('.<locals>')[0]}"
        return "elsewhere"

    @contextmanager
    def synchronizing(self) -> Iterator[None]:
        """What asks `torch.cuda` to wait is listed too."""
        with ExitStack() as stack:
            for owner in (torch.cuda, torch.cuda.Event, torch.cuda.Stream):
                stack.enter_context(mock.patch.object(owner, "synchronize", lambda *_: self._add("synchronize")))
            yield


def _by_mask(name: str, args: Sequence[Any]) -> bool:
    """Indexing by a mask, whose number of true values the host must know."""
    if name not in ("index", "index_put", "index_put_", "_unsafe_index"):
        return False
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def _frames() -> Iterator[tuple[str, str]]:
    frame: Any = sys._getframe(2)
    while frame is not None:
        yield frame.f_code.co_filename, frame.f_code.co_qualname if hasattr(frame.f_code, "co_qualname") else frame.f_code.co_name
        frame = frame.f_back

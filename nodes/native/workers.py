"""Processes with a GPU each that work for a MODEL: which, and where. They start when they are first asked."""

import gc
import weakref
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args

from fastvideo_core.parallel import Entry, Layout, Machines, suggested

from .one_worker import OneWorker, SharedGroup

RANK_PATH = Path(__file__).resolve().parents[1] / "rank_path"


class NativeWorkers:
    """What goes over the socket. layout: of a model's ranks, by the model's heads when None.

    Nothing is started before a MODEL on them is loaded, and nothing is left after `close` and after the last reference.
    """

    def __init__(self, machines: Machines, layout: Layout | None) -> None:
        self.machines, self._layout = machines, layout
        self._groups: dict[Layout, list[SharedGroup]] = {}
        self._singly: list[OneWorker] = []
        self.close = weakref.finalize(self, _end, machines, self._groups)

    def layout(self, heads: int) -> Layout:
        """Raises RequestError where it does not divide a network's heads of attention."""
        layout = self._layout or suggested(self.machines.count, heads)
        layout.check(heads)
        return layout

    def group(self, layout: Layout) -> SharedGroup:
        """The ranks of a layout: the only ones, for GPUs belong to one layout at a time."""
        return self._all(layout)[0]

    def singly(self) -> list[OneWorker]:
        """Each worker by itself. The first one is also the group of that layout."""
        groups = self._all(Layout())
        if not self._singly:
            count = len(groups)
            self._singly = [OneWorker(f"worker {n} of {count} ({self._kind})", each) for n, each in enumerate(groups, start=1)]
        return self._singly

    def _all(self, layout: Layout) -> list[SharedGroup]:
        """As many groups as there are single workers; of another layout one."""
        for other, groups in self._groups.items():
            for group in groups if other != layout else ():
                group.end()
        if layout not in self._groups:
            gc.collect()  # what a prompt left that failed may refer to itself, and to workers that have the GPUs
            options = {**_options(), "cpu": not self.machines.gpus}
            paths = (str(Path(folder_paths.__file__).parent), str(RANK_PATH))
            entry = Entry("fastvideo_rank", "networks", (options,), paths)
            count = self.machines.count if layout.ranks == 1 else 1
            self._groups[layout] = [SharedGroup(partial(self.machines.start, layout, entry)) for _ in range(count)]
        return self._groups[layout]

    def running(self, layout: Layout) -> SharedGroup | None:
        """The ranks of a layout, where they run."""
        group = next(iter(self._groups.get(layout, ())), None)
        return group if group is not None and group.running else None

    @property
    def groups(self) -> list[SharedGroup]:
        """Of all layouts that models asked for."""
        return [group for groups in self._groups.values() for group in groups]

    @property
    def _kind(self) -> str:
        return "GPU" if self.machines.gpus else "CPU"

    def title(self, layout: Layout) -> str:
        """As a report tells it."""
        return f"{layout.ranks} {self._kind} worker{'s' if layout.ranks > 1 else ''} ({layout.text()})"


def _end(machines: Machines, groups: Mapping[Layout, list[SharedGroup]]) -> None:
    for group in (group for each in groups.values() for group in each):
        group.end()
    if groups:
        machines.leave()


def _options() -> dict[str, Any]:
    """ComfyUI's own, by which its modules decide how to compute, as plain data."""
    plain = {name: value for name, value in vars(args).items() if value is None or isinstance(value, bool | int | float | str)}
    return {**plain, "fast": sorted(each.value for each in args.fast)}

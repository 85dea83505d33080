"""Processes with a GPU each that work for a MODEL: which, and where. They start when they are first asked."""

import gc
import weakref
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_detection
import folder_paths
import torch
from comfy.cli_args import args
from safetensors import SafetensorError, safe_open

from fastvideo_core import LoadError
from fastvideo_core.parallel import Entry, Group, Layout, Machines, suggested

RANK_PATH = Path(__file__).resolve().parents[1] / "rank_path"


class NativeWorkers:
    """What goes over the socket. layout: of a model's ranks, by the model's heads when None.

    Nothing is started before a MODEL on them is loaded, and nothing is left after `close` and after the last reference.
    """

    def __init__(self, machines: Machines, layout: Layout | None) -> None:
        self.machines, self._layout = machines, layout
        self._groups: dict[Layout, Group] = {}
        self.close = weakref.finalize(self, _end, machines, self._groups)

    def layout(self, heads: int) -> Layout:
        """Raises RequestError where it does not divide a network's heads of attention."""
        layout = self._layout or suggested(self.machines.count, heads)
        layout.check(heads)
        return layout

    def group(self, layout: Layout) -> Group:
        """The ranks of a layout: the only ones, for GPUs belong to one group at a time."""
        for other, group in self._groups.items():
            if other != layout:
                group.end()
        if layout not in self._groups:
            gc.collect()  # what a prompt left that failed may refer to itself, and to workers that have the GPUs
            options = {**_options(), "cpu": not self.machines.gpus}
            paths = (str(Path(folder_paths.__file__).parent), str(RANK_PATH))
            entry = Entry("fastvideo_rank", "networks", (options,), paths)
            self._groups[layout] = Group(partial(self.machines.start, layout, entry))
        return self._groups[layout]

    def running(self, layout: Layout) -> Group | None:
        """The ranks of a layout, where they run."""
        group = self._groups.get(layout)
        return group if group is not None and group.running else None

    @property
    def groups(self) -> list[Group]:
        """One for each layout that a model asked for."""
        return list(self._groups.values())

    def title(self, layout: Layout) -> str:
        """As a report tells it."""
        kind = "GPU" if self.machines.gpus else "CPU"
        return f"{layout.ranks} {kind} worker{'s' if layout.ranks > 1 else ''} ({layout.text()})"


def _end(machines: Machines, groups: Mapping[Layout, Group]) -> None:
    for group in groups.values():
        group.end()
    if groups:
        machines.leave()


def _options() -> dict[str, Any]:
    """ComfyUI's own, by which its modules decide how to compute, as plain data."""
    plain = {name: value for name, value in vars(args).items() if value is None or isinstance(value, bool | int | float | str)}
    return {**plain, "fast": sorted(each.value for each in args.fast)}


def heads_of(path: Path) -> int:
    """Heads of attention of the Wan network in a file, by its header, before anything is started for it.

    Raises:
        LoadError: it is no safetensors file of a Wan network.
    """
    try:
        with safe_open(path, "pt", device="cpu") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 - it is no mapping
            metadata = file.metadata()
    except (SafetensorError, OSError) as error:
        raise LoadError(f"{path} is no safetensors file ({error}). Workers open files of ComfyUI's own loader.") from error
    weights = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    prefix = comfy.model_detection.unet_prefix_from_state_dict(weights)
    found = {key.removeprefix(prefix): weight for key, weight in weights.items()}
    config = comfy.model_detection.detect_unet_config(found, "", metadata=metadata) or {}
    if config.get("image_model") != "wan2.1":
        raise LoadError(f"{path} holds no Wan network: workers compute Wan 2.1 and 2.2. Use ComfyUI's own loader for this file.")
    return int(config["num_heads"])

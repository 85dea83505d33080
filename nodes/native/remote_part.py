"""A file's MODEL on workers, and what a report tells of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.supported_models
import torch
from comfy.patcher_extension import WrappersMP

from fastvideo_core import Contribution

from .override import own_kernel_notes
from .remote_model import RemoteModel
from .remote_network import NODE, RemoteNetwork, RemotePatcher
from .taking_part import Participant, taking_part
from .workers import NativeWorkers

KEY = "fastvideo_workers"


def as_remote_model(workers: NativeWorkers, path: Path, options: Mapping[str, Any]) -> RemotePatcher:
    """A MODEL of a file that workers open.

    Args:
        options: as for core's `load_diffusion_model`, as data.
    """
    remote = RemoteModel(workers, path, options)
    facts = remote.facts
    config = getattr(comfy.supported_models, facts["kind"])(facts["config"])
    config.set_inference_dtype(facts["dtype"], facts["manual_cast_dtype"])
    config.custom_operations = comfy.ops.disable_weight_init  # layers of quantised files have no weights before they are read
    base = config.get_model({}, "", device=torch.device("meta"))
    base.memory_usage_factor = 0.0  # branches go in one call: the memory is the workers'
    network = base.diffusion_model
    network.__class__ = RemoteNetwork
    network.remote = remote
    base.device = comfy.model_management.unet_offload_device()
    model = RemotePatcher(base, comfy.model_management.get_torch_device(), base.device)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, told)
    return model


def told(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Core's OUTER_SAMPLE wrapper: one call is one generation."""
    guider = executor.class_obj
    with taking_part(guider, WorkersPart(guider.model_patcher.remote)):
        return executor(*args, **kwargs)


class WorkersPart(Participant):
    """What the workers did in a generation."""

    def __init__(self, remote: RemoteModel) -> None:
        self.remote, self._before = remote, (remote.calls, remote.alone)

    def contribution(self, expert: str) -> Contribution:
        calls, alone = self.remote.calls - self._before[0], self.remote.alone - self._before[1]
        notes = [f"the {expert} network was called {calls} times, in {self.remote.title}"]
        notes += own_kernel_notes(NODE, self.remote.facts["own_kernel"])
        if alone:
            notes.append(
                f"{alone} of these calls had one branch, which both halves of the workers computed: a layout with cfg 1 shares "
                "such calls among all of them"
            )
        return Contribution(notes=tuple(notes))

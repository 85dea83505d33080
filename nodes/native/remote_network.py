"""A MODEL whose network is in workers: here are its shapes, and everything that ComfyUI and other packs attach to a MODEL."""

from collections.abc import Iterator, Mapping
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
from comfy.ldm.wan.model import WanModel
from torch import Tensor

from fastvideo_core import RequestError

from .override import OVERRIDE
from .remote_model import RemoteModel

NODE = "FastVideo Load Model On Workers"
SESSION = "fastvideo_worker_session"
"""Among a call's transformer options: what its step cache announced."""
WORKS = "fastvideo_worker_works"
"""Among a call's transformer options: what works in it in the workers, by its name there, and the step of the call."""
DATA = ("rope_options",)
"""Of a call's transformer options: those that the network itself reads."""


class RemoteNetwork(WanModel):
    """Core's network without weights, whose calls are answered by a `RemoteModel`."""

    remote: RemoteModel

    def _forward(self, x: Tensor, timestep: Tensor, context: Tensor, clip_fea: Any = None, time_dim_concat: Any = None,
                 transformer_options: dict[str, Any] = {}, **kwargs: Any) -> Tensor:  # noqa: B006  # fmt: skip
        given = {"x": x, "timestep": timestep, "context": context, "clip_fea": clip_fea, "time_dim_concat": time_dim_concat}
        given = {name: value for name, value in {**given, **kwargs}.items() if value is not None}
        _check_data(given, transformer_options)
        options = {name: transformer_options[name] for name in DATA if name in transformer_options}
        parts, cached = list(transformer_options.get("cond_or_uncond", [0])), transformer_options.get(SESSION, {})
        out = self.remote.predict(given, parts, options, cached, transformer_options.get(WORKS, {}))
        return out.to(x.device)


class RemotePatcher(comfy.model_patcher.ModelPatcher):
    """Owns nothing on this machine. What patches of weights it has, the workers are told."""

    @property
    def remote(self) -> RemoteModel:
        found: RemoteModel = self.model.diffusion_model.remote
        return found

    def model_size(self) -> int:
        return 0

    def loaded_size(self) -> int:
        return 0

    def load(
        self, device_to: Any = None, lowvram_model_memory: float = 0, force_patch_weights: bool = False, full_load: bool = False
    ) -> None:
        self._check_patches()
        self.remote.patch(self.patches, str(self.patches_uuid) if self.patches else None)
        self.model.device, self.model.current_weight_patches_uuid = device_to, self.patches_uuid
        for callback in self.get_all_callbacks(comfy.patcher_extension.CallbacksMP.ON_LOAD):
            callback(self, device_to, lowvram_model_memory, force_patch_weights, full_load)

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> None:
        super().unpatch_model(None, unpatch_weights)  # there is nothing to move

    def partially_unload(self, *args: Any, **kwargs: Any) -> int:
        return 0

    def detach(self, unpatch_all: bool = True) -> Any:
        if unpatch_all:
            self.remote.offload()
        return super().detach(unpatch_all)

    def patch_hooks(self, hooks: Any) -> None:
        if hooks is not None and self.get_combined_hook_patches(hooks=hooks):
            raise _refused("weights that change by hooks, during a run", "the LoRA's own node")
        self.current_hooks = hooks

    def deepclone_multigpu(self, *args: Any, **kwargs: Any) -> Any:
        raise RequestError(f"{NODE} spreads a model over GPUs, and a MultiGPU node is behind it. Remove one of the two.")

    def _check_patches(self) -> None:
        inside = [name for name in self.object_patches if name.startswith("diffusion_model")]
        if inside:
            raise _refused(f"other modules in its network ({inside[0]})", "ComfyUI's own loader")
        if self.weight_wrapper_patches:
            raise _refused("a wrapper of its weights", "ComfyUI's own loader")
        functions = [key for key, patches in self.patches.items() if any(patch[4] is not None for patch in patches)]
        if functions:
            raise _refused(f"a patch of weights that is a function ({functions[0]})", "another LoRA")


def remote_of(model: Any) -> RemoteModel | None:
    """Of a MODEL on workers; None of another one."""
    network = model.model.diffusion_model
    return network.remote if isinstance(network, RemoteNetwork) else None


def check_here(model: Any, node: str) -> None:
    """Raises RequestError where a MODEL's network is in workers, and `node` needs it in this process."""
    if remote_of(model) is not None:
        raise RequestError(
            f"{node} works inside the network, and {NODE} has put this one into workers. Remove {node}, or load the model with "
            "ComfyUI's own loader."
        )


def _check_data(given: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raises RequestError for what cannot go to another process, by name."""
    found = [f"the input {name}" for name, value in given.items() if not _is_data(value)]
    for name in _placed("patches_replace", options.get("patches_replace")):
        found.append(f"a block replace ({name})")
    found += [f"the patch {name}" for name in options.get("patches", {}) if options["patches"][name]]
    if OVERRIDE in options:
        found.append(f"an attention of its own ({OVERRIDE})")
    if found:
        raise _refused(found[0], "ComfyUI's own loader")


def _placed(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _placed(f"{path} {key}", inner)
    elif value is not None:
        yield f"{path}: {getattr(value, '__module__', type(value).__module__)}"


def _is_data(value: Any) -> bool:
    return isinstance(value, Tensor | int | float | str) or (isinstance(value, list) and all(map(_is_data, value)))


def _refused(what: str, instead: str) -> RequestError:
    return RequestError(
        f"The model is in workers ({NODE}), and a node between it and the sampler gives it {what}, which cannot go there. Remove "
        f"that node, or use {instead}."
    )

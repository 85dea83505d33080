"""Compiled blocks on a native MODEL, which core's own wrapper puts in their places for each call."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_patcher
import comfy.patcher_extension
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY
from torch import nn

from fastvideo_core import CompileSettings, Contribution, RequestError
from fastvideo_core.wan import CompileAccount

from .attention import situation_of
from .blocks import has_own_kernel
from .diffusers_network import DiffusersNetwork
from .guard import guard_calls, network_name
from .override import OVERRIDE, CoreAttention
from .progress import show
from .remote_network import remote_of
from .remote_work import RemoteWork, with_remote_work
from .taking_part import Participant, run_of, taking_part

NAME = "FastVideo Compile"
KEY = "fastvideo_compile"


def with_compile(model: Any, settings: CompileSettings) -> Any:
    """A clone of the MODEL whose blocks run compiled, never the whole network: wrappers and hooks between them stay Python.

    Raises:
        RequestError: nothing can be compiled here, or something on the MODEL is compiled already.
    """
    if model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
        raise RequestError(f"There are two {NAME} nodes on one MODEL: remove or bypass one of the two.")
    check_compiled(model, ())
    if remote_of(model) is not None:
        return with_remote_work(model, RemoteWork(NAME, KEY, "compile", {"settings": settings}))
    settings.check(situation_of(model))
    clone = model.clone(disable_dynamic=True)  # as core's own node: compiled code wants weights that stay where they are
    set_torch_compile_wrapper(clone, settings.backend, dynamic=False, keys=list(block_keys(clone.model.diffusion_model)))
    (core,) = clone.get_wrappers(WrappersMP.APPLY_MODEL, COMPILE_KEY)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, CompileWrapper(settings, core))
    return clone


def block_keys(network: Any) -> Iterator[str]:
    """The blocks of a Wan network, VACE's control blocks too, as core names them below its model."""
    for name in ("blocks", "vace_blocks"):
        yield from (f"diffusion_model.{name}.{index}" for index in range(len(getattr(network, name, ()))))


@dataclass(frozen=True)
class CompileWrapper:
    """Core's OUTER_SAMPLE wrapper: one call is one generation. core: what core's function put on the MODEL."""

    settings: CompileSettings
    core: Any

    def __call__(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        guider = executor.class_obj
        check_compiled(guider.model_patcher, (self.core,))
        account = CompileAccount(self.settings)
        if run_of(guider) is not None:  # whose first step takes this line off again
            show("compiling the blocks in the first step")
        with taking_part(guider, CompiledPart(account)):
            guider.model_options = comfy.model_patcher.create_model_options_clone(guider.model_options)
            if not _compiles_well(guider.model_patcher.model.diffusion_model):
                guider.model_options.setdefault("transformer_options", {}).setdefault(OVERRIDE, CoreAttention())
            comfy.patcher_extension.add_wrapper_with_key(
                WrappersMP.DIFFUSION_MODEL, KEY, _counted(account), guider.model_options, is_model_options=True
            )
            guard_calls(guider.model_options, KEY, NAME, lambda: account.calls > 0)
            return executor(*args, **kwargs)


@dataclass(frozen=True, eq=False)
class CompiledPart(Participant):
    """What torch compiled in a generation, by which its report tells."""

    account: CompileAccount

    def contribution(self, expert: str) -> Contribution:
        return Contribution(notes=(self.account.note(),))


def _counted(account: CompileAccount) -> Any:
    """Core's DIFFUSION_MODEL wrapper: one call of the network."""

    def call(executor: Any, x: Any, timestep: Any, context: Any, clip_fea: Any, time_dim_concat: Any,
             transformer_options: dict[str, Any], **kwargs: Any) -> Any:  # fmt: skip
        network = executor.class_obj
        with account.call(), _watched(network.blocks if account.calls == 1 else ()) as called:
            out = executor(x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs)
        if account.calls == 1 and not called:  # no cache can skip the first call
            raise RequestError(
                f"{NAME} is on a {network_name(network)}, which calls its blocks in another way than other Wan networks do: "
                "nothing of it would run compiled. Remove the node from this MODEL."
            )
        return out

    return call


@contextmanager
def _watched(blocks: Iterable[nn.Module]) -> Iterator[list[bool]]:
    """Gets an entry for each of the blocks that is called. They are those around the compiled code, which stays as it is."""
    called: list[bool] = []
    hooks = [block.register_forward_pre_hook(lambda *_: called.append(True)) for block in blocks]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


def _compiles_well(network: nn.Module) -> bool:
    """Whether core's attention is torch's. What core's others do depends on the memory that is free, and on kernels of packages
    that torch cannot look into: they would be compiled anew in step after step. An attention that the file brings would not run
    any more under an override."""
    if isinstance(network, DiffusersNetwork) or has_own_kernel(network):
        return True
    return comfy.ldm.modules.attention.optimized_attention.__name__ == "attention_pytorch"


def check_compiled(model: Any, ours: tuple[Any, ...]) -> None:
    """Raises RequestError where a MODEL is compiled by something else than `ours`, or where it took ours off.

    Several GPUs are refused: core's wrapper would run the first one's blocks on all.
    """
    network = model.model.diffusion_model
    present = tuple(model.get_wrappers(WrappersMP.APPLY_MODEL, COMPILE_KEY))
    patched = [value for name, value in model.object_patches.items() if name.startswith("diffusion_model")]
    modules = [network, *network.blocks, *patched]
    if present != ours or any(map(_is_compiled, modules)):
        raise RequestError(
            f"{NAME} and another node that compiles, such as core's TorchCompileModel, are on one MODEL, which can be compiled "
            "once only: remove or bypass one of the two nodes."
        )
    if model.get_additional_models_with_key("multigpu"):
        raise RequestError(
            f"{NAME} is on a MODEL that a MultiGPU node spreads over several GPUs, and it compiles for one. Remove one of the "
            "two nodes."
        )


def _is_compiled(value: Any) -> bool:
    """By `torch.compile(module)` or by `module.compile()`."""
    return hasattr(value, "_orig_mod") or (isinstance(value, nn.Module) and value._compiled_call_impl is not None)

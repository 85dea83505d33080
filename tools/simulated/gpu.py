"""Tensors on a GPU that is not there, beside real ones on the CPU, and what `torch.cuda` says of such a GPU."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from .memory import Allocated

GIB = 2**30
DEVICE = torch.device("cuda", 0)


class SimulatedGPU(TorchDispatchMode):
    """What is asked for on the GPU, and what is computed of it, has no values; the rest is real. Torch's fake tensors raise where
    devices mix and where a value is read.

    memory: of the card, in bytes. held: counts what is on it.
    """

    def __init__(self, memory: int = 80 * GIB) -> None:
        super().__init__()
        self.memory, self.held = memory, Allocated(())
        self._valueless = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function.overloadpacket is torch.ops.aten._pin_memory:
            return args[0].clone()
        if self._valueless or any(_is_there(value) for value in tree_iter((args, kwargs))):
            with self.held:
                return function(*args, **kwargs)
        with unset_fake_temporarily():
            return function(*args, **kwargs)

    @contextmanager
    def valueless(self) -> Iterator[None]:
        """Tensors on the CPU have no values either, and take no memory: so large networks are made."""
        self._valueless = True
        try:
            yield
        finally:
            self._valueless = False

    @property
    def answers(self) -> dict[str, Any]:
        """Of `torch.cuda`, by name. Nothing is held in reserve. Streams and events are there and do nothing."""
        free = lambda *_: (self.memory - self.held.now, self.memory)  # noqa: E731
        used = lambda *_: self.held.now  # noqa: E731
        nothing = lambda *_, **__: None  # noqa: E731
        properties = SimpleNamespace(name="simulated", major=9, minor=0, total_memory=self.memory, multi_processor_count=132)
        return {
            "is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0, "set_device": nothing,
            "get_device_name": lambda *_: properties.name, "get_device_properties": lambda *_: properties,
            "get_device_capability": lambda *_: (properties.major, properties.minor), "is_bf16_supported": lambda *_: True,
            "mem_get_info": free, "memory_allocated": used, "memory_reserved": used, "empty_cache": nothing,
            "max_memory_allocated": lambda *_: self.held.peak, "reset_peak_memory_stats": lambda *_: self.held.reset(),
            "memory_stats": lambda *_: {"reserved_bytes.all.current": used(), "active_bytes.all.current": used()},
            "Stream": SimulatedStream, "current_stream": SimulatedStream, "default_stream": SimulatedStream,
            "stream": lambda *_: nullcontext(), "Event": SimulatedStream, "synchronize": nothing, "ipc_collect": nothing,
        }  # fmt: skip


class _WithoutDevice(FakeTensorMode):
    """Which knows that there is no GPU, whatever `torch.cuda` says."""

    avoid_device_init = True


def _is_there(value: Any) -> bool:
    return isinstance(value, FakeTensor) or (isinstance(value, torch.device) and value.type == "cuda")


class SimulatedStream:
    """A stream or an event. Queues hold nothing, so that nothing waits."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.device = DEVICE

    def _nothing(self, *_: Any) -> "SimulatedStream":
        return self

    record = record_event = wait_stream = wait_event = wait = synchronize = _nothing


@contextmanager
def simulated(memory: int = 80 * GIB) -> Iterator[SimulatedGPU]:
    """A GPU with so many bytes is there."""
    gpu = SimulatedGPU(memory)
    with ExitStack() as stack:
        for name, answer in gpu.answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch.object(fake_tensor, "init_gpu_context", lambda device: None))
        stack.enter_context(mock.patch.object(FakeTensor, "data", _DATA, create=True))
        stack.enter_context(mock.patch.object(nn.Module, "_apply", _applied(nn.Module._apply)))
        stack.enter_context(_WithoutDevice(allow_non_fake_inputs=True))
        yield stack.enter_context(gpu)


def _set_data(tensor: FakeTensor, value: FakeTensor) -> None:
    """As on a GPU: the same tensor elsewhere."""
    Tensor.data.__set__(tensor, value)  # type: ignore[attr-defined]
    tensor.fake_device = value.fake_device


_DATA = property(lambda tensor: Tensor.data.__get__(tensor), _set_data)  # type: ignore[attr-defined]


def _applied(own: Any) -> Any:
    """`nn.Module._apply`, which swaps the fake weights of a module and cannot where something refers to them: their data is set,
    as it is for real ones."""

    def apply(module: nn.Module, function: Any, recurse: bool = True) -> nn.Module:
        if not any(isinstance(weight, FakeTensor) for weight in module.parameters()):
            return own(module, function, recurse)  # type: ignore[no-any-return]
        for each in module.children() if recurse else ():
            each._apply(function)
        for weight in module._parameters.values():
            if weight is not None:
                weight.data = function(weight.detach())
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = function(buffer)
        return module

    return apply

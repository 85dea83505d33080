"""Where a network's weights are while it works."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..errors import CapacityError, RequestError
from .memory import is_out_of_memory, network_too_large

_HELD = "_fastvideo_held"
LEAVE_IT = "Free some of it, load the network in a smaller dtype, or leave it on the CPU (device='cpu' where it is loaded)"


@dataclass
class MoveAccount:
    """What worked in one generation. networks: by identity; moves: how often one's weights were brought to the device."""

    networks: set[int] = field(default_factory=set)
    moves: int = 0


@contextmanager
def placed(
    network: nn.Module, device: torch.device, offload_device: torch.device | None, ways_out: str = LEAVE_IT
) -> Iterator[None]:  # fmt: skip
    """`network` on `device`; afterwards, also on interrupt and where not all of it fits, on `offload_device`.

    Args:
        offload_device: None for the tensors that it had before, of which no copy is made: those that are mapped from a file stay
            so. Nothing may change them meanwhile.
        ways_out: what can be done where it does not fit.

    Raises:
        CapacityError: it does not fit. RequestError: somebody holds it on another device.
    """
    if _HELD in vars(network):
        if vars(network)[_HELD] != device:
            raise _is_held(network, f"on {device}")
        yield
        return
    put_back = _to(network, offload_device) if offload_device is not None else _as_before(network)
    try:
        with room(lambda: network_too_large(network, device, ways_out)):
            _move(network, device)
        yield
    finally:
        put_back()


@contextmanager
def held(
    network: nn.Module, device: torch.device, offload_device: torch.device | None, ways_out: str = LEAVE_IT
) -> Iterator[None]:  # fmt: skip
    """As `placed`, for several who place it one after another: while it is held they move nothing.

    Raises:
        CapacityError: it does not fit. RequestError: it is held already.
    """
    if _HELD in vars(network):
        raise _is_held(network, "for others")
    with placed(network, device, offload_device, ways_out):
        vars(network)[_HELD] = device
        try:
            yield
        finally:
            del vars(network)[_HELD]


def _is_held(network: nn.Module, asked: str) -> RequestError:
    return RequestError(
        f"The network was asked for {asked}, and several generations hold it on {vars(network)[_HELD]}. Run those to their end, "
        "or close() them, before."
    )


def _to(network: nn.Module, device: torch.device) -> Callable[[], None]:
    return lambda: _move(network, device)


def _as_before(network: nn.Module) -> Callable[[], None]:
    places = [each for module in network.modules() for each in (vars(module)["_parameters"], vars(module)["_buffers"])]
    before = [(place, name, tensor, tensor.data) for place in places for name, tensor in place.items() if tensor is not None]

    def put_back() -> None:
        for place, name, tensor, values in before:
            tensor.data = values
            place[name] = tensor

    return put_back


def _move(network: nn.Module, device: torch.device) -> None:
    with torch.inference_mode(False):  # weights that move in inference mode could not be changed any more
        network.to(device)


@contextmanager
def room(too_large: Callable[[], str]) -> Iterator[None]:
    """Raises CapacityError where torch runs out of memory. too_large: says what does not fit, and what to do."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise CapacityError(too_large()) from error
        raise


def is_group_offloaded(transformer: nn.Module) -> bool:
    """Whether diffusers' group offloading owns the places of the weights."""
    from diffusers.hooks.group_offloading import _is_group_offload_enabled

    return bool(_is_group_offload_enabled(transformer))


def has_sharded_weights(transformer: nn.Module) -> bool:
    """Whether ranks share the weights of its blocks."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(weight, DTensor) for weight in transformer.parameters())


def check_onload_device(transformer: nn.Module, device: torch.device) -> None:
    """Raises RequestError where group offloading brings the weights to another device than the one that shall compute."""
    from diffusers.hooks.group_offloading import _get_group_onload_device

    if not is_group_offloaded(transformer):
        return
    onload = torch.device(_get_group_onload_device(transformer))
    if onload.type != device.type or (None not in (onload.index, device.index) and onload.index != device.index):
        raise RequestError(
            f"The transformer is group-offloaded to {onload} and the generation was asked for on {device}. Load the model with "
            f"device='{onload}', or load it anew and offload it to {device}."
        )


def visiting_bytes(transformer: nn.Module) -> int:
    """What diffusers' group offloading has of the weights on the device at the most: those of no block, and the largest group of
    blocks, two of them where the next is copied while one computes. 0 without group offloading."""
    hooks = (getattr(module, "_diffusers_hook", None) for module in transformer.modules())
    groups = {hook.get_hook("group_offloading").group for hook in hooks if hook and hook.get_hook("group_offloading")}
    always = sum(_bytes_of(group) for group in groups if group.onload_leader is transformer)
    blocks = (_bytes_of(group) * (1 if group.stream is None else 2) for group in groups if group.onload_leader is not transformer)
    return always + max(blocks, default=0)


def _bytes_of(group: Any) -> int:
    """group: diffusers' `ModuleGroup`."""
    of_modules = (tensor for module in group.modules for tensors in (module.parameters(), module.buffers()) for tensor in tensors)
    return sum(tensor.nbytes for tensor in (*of_modules, *group.parameters, *group.buffers))

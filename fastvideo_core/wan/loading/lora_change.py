"""Two ways in which a parameter is changed and put back: a low-rank sum computed at use, and a replacement."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_BEFORE = "_before_lora"
_PARAMETRIZED = re.compile(r"parametrizations\.(\w+)\.original$")
_ADDED = re.compile(r"\.parametrizations\.|\.lora_")
"""What a LoRA brings with it, `LowRank`'s and peft's."""


class LowRank(nn.Module):
    """A parametrization of a linear layer's weight (out, in): weight + scale * up (out, rank) @ down (rank, in)."""

    down: Tensor
    up: Tensor

    def __init__(self, down: Tensor, up: Tensor, scale: float) -> None:
        super().__init__()
        self.register_buffer("down", down)
        self.register_buffer("up", up)
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        return torch.addmm(weight, self.up, self.down, alpha=self.scale)


def parameter_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """The network's parameters by their names without LoRAs."""
    return {_PARAMETRIZED.sub(r"\1", name): tuple(tensor.shape) for name, tensor in network.named_parameters()}


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """Its state dict, with the originals that lie beside replaced parameters."""
    beside = {name: tensor for name, tensor in network.named_buffers() if name.endswith(_BEFORE)}
    return {**network.state_dict(), **beside}


def before_loras(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights by their names without LoRAs, as they were before them: those of `apply_lora`, and the adapters that peft puts
    around a layer. tensors: by the names of `tensors_of`."""
    named = {_PARAMETRIZED.sub(r"\1", name).replace(".base_layer.", "."): tensor for name, tensor in tensors.items()}
    own = (name for name in named if not name.endswith(_BEFORE) and not _ADDED.search(name))
    return {name: named.get(f"{name}{_BEFORE}", named[name]) for name in own}


def add_low_rank(layer: nn.Linear, down: Tensor, up: Tensor, scale: float) -> None:
    """Let the layer compute with weight + scale * up (out, rank) @ down (rank, in); the stored weight stays as it is."""
    weight = layer.weight
    parametrize.register_parametrization(
        layer, "weight", LowRank(down.to(weight), up.to(weight), scale).requires_grad_(False), unsafe=True
    )


def add_difference(module: nn.Module, name: str, difference: Tensor) -> None:
    """Replace a parameter by its sum with `difference` (float32); the original becomes a buffer beside it."""
    is_low_rank = parametrize.is_parametrized(module, name)
    holder, key = (module.get_submodule(f"parametrizations.{name}"), "original") if is_low_rank else (module, name)
    original: Tensor = getattr(holder, key)
    if f"{name}{_BEFORE}" not in module._buffers:
        module.register_buffer(f"{name}{_BEFORE}", original.data, persistent=False)
    changed = (original.float() + difference.to(original.device).reshape(original.shape)).to(original.dtype)
    setattr(holder, key, nn.Parameter(changed, requires_grad=False))


def undo(module: nn.Module) -> None:
    """Put back what `add_low_rank` and `add_difference` changed in this module: the very tensors that were there."""
    if parametrize.is_parametrized(module, "weight"):
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
    for key, original in [(key, tensor) for key, tensor in module.named_buffers(recurse=False) if key.endswith(_BEFORE)]:
        setattr(module, key.removesuffix(_BEFORE), nn.Parameter(original, requires_grad=False))
        delattr(module, key)

"""Two ways in which a parameter is changed and put back: a low-rank sum computed at use, and a replacement.

Both remember whose change it is, so that it can act at another strength for a time (`lora_strengths`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_BEFORE = "_before_lora"
_DIFFERENCES = "_lora_differences"
_PARAMETRIZED = re.compile(r"parametrizations\.(\w+)\.original$")
_ADDED = re.compile(r"\.parametrizations\.|\.lora_")
"""What a LoRA brings with it, `LowRank`'s and peft's."""


@dataclass(frozen=True)
class OfLora:
    """Whose a change is. strength: of the LoRA; factor: of the change within it, alpha / rank or 1."""

    name: str
    strength: float
    factor: float = 1.0

    @property
    def scale(self) -> float:
        return self.strength * self.factor

    def at(self, strengths: Mapping[str, float]) -> "OfLora":
        """The same at the strength that its LoRA has there, if any."""
        return replace(self, strength=strengths.get(self.name, self.strength))


@dataclass(frozen=True)
class Difference:
    """What a LoRA adds to a parameter that is replaced. values: in its file's dtype and in main memory, where they stay."""

    lora: OfLora
    values: Tensor

    def added_to(self, parameter: Tensor) -> Tensor:
        """The sum, rounded to the parameter's dtype."""
        change = self.lora.scale * self.values.float()
        return (parameter.float() + change.to(parameter.device).reshape(parameter.shape)).to(parameter.dtype)


class LowRank(nn.Module):
    """A parametrization of a linear layer's weight (out, in): weight + scale * up (out, rank) @ down (rank, in).

    lora: whose it is, at the strength at which it was applied; `scale` may be another one for a time.
    """

    down: Tensor
    up: Tensor

    def __init__(self, down: Tensor, up: Tensor, lora: OfLora) -> None:
        super().__init__()
        self.register_buffer("down", down)
        self.register_buffer("up", up)
        self.lora = lora
        self.scale = lora.scale

    def forward(self, weight: Tensor) -> Tensor:
        return torch.addmm(weight, self.up, self.down, alpha=self.scale) if self.scale else weight


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


def add_low_rank(layer: nn.Linear, down: Tensor, up: Tensor, lora: OfLora) -> None:
    """Let the layer compute with weight + scale * up (out, rank) @ down (rank, in); the stored weight stays as it is."""
    weight = layer.weight
    parametrize.register_parametrization(
        layer, "weight", LowRank(down.to(weight), up.to(weight), lora).requires_grad_(False), unsafe=True
    )


def add_difference(module: nn.Module, name: str, difference: Difference) -> None:
    """Replace a parameter by its sum with `difference`; the original becomes a buffer beside it."""
    holder, key = place_of(module, name)
    original: Tensor = getattr(holder, key)
    if f"{name}{_BEFORE}" not in module._buffers:
        module.register_buffer(f"{name}{_BEFORE}", original.data, persistent=False)
    setattr(holder, key, nn.Parameter(difference.added_to(original), requires_grad=False))
    vars(module).setdefault(_DIFFERENCES, {}).setdefault(name, []).append(difference)


def place_of(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds a parameter, and its name there: a low-rank change puts it into a module of its own."""
    is_low_rank = parametrize.is_parametrized(module, name)
    return (module.get_submodule(f"parametrizations.{name}"), "original") if is_low_rank else (module, name)


def differences_of(module: nn.Module) -> Mapping[str, Sequence[Difference]]:
    """By the names of the module's parameters that are replaced, in the order in which they were added."""
    differences: Mapping[str, Sequence[Difference]] = vars(module).get(_DIFFERENCES, {})
    return differences


def replacement(module: nn.Module, name: str, strengths: Mapping[str, float]) -> Tensor:
    """What a replaced parameter would be, had these LoRAs been applied at these strengths."""
    changed: Tensor = getattr(module, f"{name}{_BEFORE}")
    for difference in differences_of(module)[name]:
        changed = replace(difference, lora=difference.lora.at(strengths)).added_to(changed)
    return changed


def fuse(module: nn.Module) -> None:
    """What `add_low_rank` and `add_difference` changed in this module is from now on its own: the sum, computed once."""
    if parametrize.is_parametrized(module, "weight"):
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    for key in [key for key, _ in module.named_buffers(recurse=False) if key.endswith(_BEFORE)]:
        delattr(module, key)
    vars(module).pop(_DIFFERENCES, None)


def undo(module: nn.Module) -> None:
    """Put back what `add_low_rank` and `add_difference` changed in this module: the very tensors that were there."""
    if parametrize.is_parametrized(module, "weight"):
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
    for key, original in [(key, tensor) for key, tensor in module.named_buffers(recurse=False) if key.endswith(_BEFORE)]:
        setattr(module, key.removesuffix(_BEFORE), nn.Parameter(original, requires_grad=False))
        delattr(module, key)
    vars(module).pop(_DIFFERENCES, None)

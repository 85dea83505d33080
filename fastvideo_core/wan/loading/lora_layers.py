"""A LoRA file, read for one network: what it changes layer by layer, checked against the network before anything is touched."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import LoadError
from .checkpoint import Checkpoint, StoredTensor
from .keys import some
from .kinds import kind_of
from .lora_change import Difference, OfLora, add_difference, add_low_rank, parameter_shapes
from .lora_fit import Parts, Shapes, check_fit
from .lora_keys import Change, Part, changes, other_adapters
from .lora_scale import AdapterScale
from .quantised import DTYPES

_PATCHES = "patch_embedding.weight"
_OTHER_CHANNELS = "it is for a network that reads another number of channels (text-to-video, image-to-video)"
_WHOLE = ("I64", "I32", "I16")
"""Safetensors' names of integers that are numbers. 8 bits are a quantisation of which the scale is not known."""


@dataclass(frozen=True)
class LayerChange:
    """What a file has for one layer. parameter: diffusers' name of its weight; factor: alpha / rank."""

    parameter: str
    parts: Parts
    factor: float

    @property
    def name(self) -> str:
        return self.parameter.removesuffix(".weight")

    def apply(self, transformer: nn.Module, lora: str, strength: float) -> None:
        path, _, name = self.parameter.rpartition(".")
        module = transformer.get_submodule(path)
        whole, part = OfLora(lora, strength), OfLora(lora, strength, self.factor)
        if "down" in self.parts:
            self._apply_product(module, name, part)
        self._apply_difference(module, name, "weight", whole)
        self._apply_difference(module, "bias", "bias", whole)
        self._apply_difference(module, "bias", "up_bias", part)

    def _apply_product(self, module: nn.Module, name: str, lora: OfLora) -> None:
        down, up = self.value("down").flatten(1), self.value("up").flatten(1)
        if isinstance(module, nn.Linear):
            add_low_rank(module, down, up, lora)
        else:
            add_difference(module, name, Difference(lora, up @ down))

    def _apply_difference(self, module: nn.Module, name: str, part: Part, lora: OfLora) -> None:
        if part in self.parts:  # a copy: the file, from which it is mapped, may change
            add_difference(module, name, Difference(lora, self.parts[part].read().clone()))

    def value(self, part: Part) -> Tensor:
        """What the file has for that part, in float32."""
        return self.parts[part].read().float()


def digest_of(layers: Iterable[LayerChange]) -> str:
    """sha256 over what they change and by what: names, factors, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for layer in sorted(layers, key=lambda layer: layer.parameter):
        digest.update(f"{layer.parameter} {layer.factor!r}\n".encode())
        for part in sorted(layer.parts.keys() - {"alpha"}):
            tensor = layer.parts[part].read()
            digest.update(f"{part} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_layers(transformer: nn.Module, checkpoint: Checkpoint) -> tuple[list[LayerChange], dict[str, str]]:
    """The changes, and key -> why it changes nothing.

    Raises:
        LoadError: another kind of adapter or file, nothing that fits, a torn pair, or a wrong shape.
    """
    where, shapes, tensors = str(checkpoint.path), parameter_shapes(transformer), checkpoint.tensors
    _refuse_other_adapters(tensors, where)
    found, ignored = changes(tensors, shapes)
    for keys, why in (
        (_for_other_channels(found, tensors, shapes), _OTHER_CHANNELS),
        (_alone(found), "it is an alpha without matrices, which changes nothing"),
    ):
        ignored |= dict.fromkeys(keys, why)
        found = {key: change for key, change in found.items() if key not in ignored}
    layers: dict[str, dict[Part, StoredTensor]] = {}
    for key, change in found.items():
        layers.setdefault(change.parameter, {})[change.part] = tensors[key]
    if not layers:
        kind = kind_of(tensors)
        looks = f"It looks like {kind}, made for another model" if kind else "It is no LoRA for Wan"
        raise LoadError(f"Nothing in {where} fits this transformer. {looks}. It has {some(list(tensors))}. Use a LoRA for Wan.")
    _refuse_quantised({key: tensors[key] for key, change in found.items() if change.part != "alpha"}, where)
    check_fit(layers, shapes, where)
    scale = AdapterScale.of(checkpoint.metadata, where)
    return [LayerChange(parameter, parts, _factor(parameter, parts, scale)) for parameter, parts in layers.items()], ignored


def _refuse_other_adapters(tensors: Mapping[str, StoredTensor], where: str) -> None:
    others = other_adapters(tensors)
    if others:
        raise LoadError(
            f"{where} has parts of {' and '.join(sorted(others))}, which is not applied here. Merge it into a model file with "
            "the tool that made it, or use a plain LoRA; in ComfyUI core's LoRA loader puts it on the MODEL."
        )


def _refuse_quantised(matrices: Mapping[str, StoredTensor], where: str) -> None:
    wrong = [f"{key} is {tensor.dtype}" for key, tensor in matrices.items() if tensor.dtype not in (*DTYPES, *_WHOLE)]
    if wrong:
        raise LoadError(f"{where} is quantised: {some(wrong)}. Use the LoRA in bf16, fp16 or fp32.")


def _for_other_channels(found: Mapping[str, Change], tensors: Mapping[str, StoredTensor], shapes: Shapes) -> list[str]:
    """The keys for the patch embedding's weight when they read other channels than the network does.

    LoRAs of text-to-video are used on image-to-video networks, where all their other layers fit.
    """
    keys = {
        change.part: key
        for key, change in found.items()
        if change.parameter == _PATCHES and change.part not in ("bias", "up_bias")
    }
    reads = math.prod(shapes[_PATCHES][1:])
    others = [part for part in ("down", "weight") if part in keys and math.prod(tensors[keys[part]].shape[1:]) != reads]
    return list(keys.values()) if others else []


def _alone(found: Mapping[str, Change]) -> list[str]:
    """The keys of an alpha whose layer has nothing else: tools that take blocks out of a LoRA leave it there."""
    others = {change.parameter for change in found.values() if change.part != "alpha"}
    return [key for key, change in found.items() if change.parameter not in others]


def _factor(parameter: str, parts: Parts, scale: AdapterScale) -> float:
    if "down" not in parts:
        return 1.0
    alpha = float(parts["alpha"].read().float().reshape(())) if "alpha" in parts else None
    return scale.factor(parameter.removesuffix(".weight"), parts["down"].shape[0], alpha)

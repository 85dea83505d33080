"""Weights of trained sparse self-attention on their own, for a network that was loaded without them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ...errors import LoadError, RequestError
from .checkpoint import open_checkpoint
from .keys import some
from .quantised import StoredWeight, stored_weights
from .trained_attention import FLOAT32, TRAINED_WITH, trained_key, trained_width


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """What the weights must fit. layers: blocks; width: heads * D; head_dim: D."""

    layers: int
    width: int
    head_dim: int


def load_trained_attention(path: Path, variant: str, size: NetworkSize, dtype: torch.dtype) -> nn.ModuleList:
    """One layer for each block: VSA's gate, width -> width, or SLA's projection, D -> D. On the CPU, without gradients.

    Args:
        path: a safetensors file or a diffusers transformer folder, with keys as `load_transformer` reads them; no other tensor
            of it is read.
        variant: of sparse attention, "VSA" or "SLA".
        dtype: that the network computes in. SLA's projection is float32 in any case.

    Raises:
        RequestError: a variant that has no trained weights.
        LoadError: the file is missing or broken, has no such weights, or has them for another network.
    """
    layer = {of: name for name, of in TRAINED_WITH.items()}.get(variant)
    if layer is None:
        raise RequestError(f"{variant} reads no trained weights, only {' and '.join(TRAINED_WITH.values())} do.")
    weights = _weights(path, layer)
    if not weights:
        raise LoadError(f"{path} has no weights of {variant}: no layer is named {layer}.{_other(path, layer)}")
    places = _places(layer, size, bias="0.bias" in weights)
    _check(places, weights, f"{path} has weights of {variant}", size)
    kept = torch.float32 if layer in FLOAT32 else dtype
    places.load_state_dict({name: weight.read(kept) for name, weight in weights.items()}, assign=True)
    return places.requires_grad_(False)


def _weights(path: Path, layer: str) -> dict[str, StoredWeight]:
    """By their names in the list: "0.weight" of the first block's."""
    checkpoint = open_checkpoint(path)
    tensors = {key: tensor for key, tensor in checkpoint.tensors.items() if f".{layer}." in key}
    named = {trained_key(key): weight for key, weight in stored_weights(tensors, checkpoint.metadata, str(path)).items()}
    return {f"{name.split('.')[1]}.{name.split('.')[-1]}": weight for name, weight in named.items() if name}


def _other(path: Path, layer: str) -> str:
    """What the file was trained with instead."""
    found = [variant for name, variant in TRAINED_WITH.items() if name != layer and _weights(path, name)]
    return f" It has those of {found[0]}: choose that variant." if found else " It was not trained with it."


def _places(layer: str, size: NetworkSize, bias: bool) -> nn.ModuleList:
    width = trained_width(layer, size.width, size.head_dim)
    with torch.device("meta"):
        return nn.ModuleList(nn.Linear(width, width, bias=bias) for _ in range(size.layers))


def _check(places: nn.ModuleList, weights: Mapping[str, StoredWeight], what: str, size: NetworkSize) -> None:
    shapes = {name: tuple(place.shape) for name, place in places.state_dict().items()}
    layers = {int(name.split(".")[0]) for name in weights}
    network = f"The network has {size.layers} layers of width {size.width}, {size.head_dim} per head"
    if layers != set(range(size.layers)):
        raise LoadError(f"{what} in {max(layers) + 1} layers, {len(layers)} of them with weights. {network}: {_FIX}")
    torn = sorted(shapes.keys() ^ weights.keys())
    if torn:
        raise LoadError(f"{what} that differ from layer to layer: {some(torn)}. Download the file again.")
    wrong = [f"{name} is {weights[name].shape}, not {shape}" for name, shape in shapes.items() if weights[name].shape != shape]
    if wrong:
        raise LoadError(f"{what} of another size: layer {some(wrong)}. {network}: {_FIX}")


_FIX = "name the file that this network is from."

"""Weights of trained sparse attention for a MODEL of core's loader, which drops them: a small model beside the MODEL."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from fastvideo_core import RequestError
from fastvideo_core.wan.loading import NetworkSize, load_trained_attention

from .diffusers_network import DiffusersNetwork
from .facts import WanFacts
from .files import model_file, transformer_folders

NONE = "none"


@dataclass(frozen=True, eq=False)
class TrainedWeights:
    """name: of the file; layers: VSA's gate or SLA's projection of each layer."""

    name: str
    layers: nn.ModuleList

    def as_model(self) -> ModelPatcher:
        """What core's memory manager moves and counts."""
        return ModelPatcher(self.layers, comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device())


@dataclass(frozen=True)
class TrainedFile:
    """name: as a person chose it."""

    name: str
    path: Path

    def weights(self, variant: str, size: NetworkSize, dtype: torch.dtype) -> TrainedWeights:
        """In the dtype that the network computes in.

        Raises:
            RequestError: the variant has no place for them.
            LoadError: its weights are none or of another network.
        """
        layers = load_trained_attention(self.path, variant, size, dtype)
        for layer in layers:  # core's own kind, which it keeps where there is room, and which computes in its input's dtype
            layer.__class__ = comfy.ops.manual_cast.Linear
        return TrainedWeights(self.name, layers)


def size_of(network: Any) -> NetworkSize:
    """Of core's Wan network."""
    return NetworkSize(layers=len(network.blocks), width=network.dim, head_dim=network.dim // network.num_heads)


def trained_file(model: Any, facts: WanFacts, name: str) -> TrainedFile | None:
    """That of a file in ComfyUI's folders; None where the name is "none".

    Raises:
        RequestError: the network has no place for such weights.
        LoadError: there is no such file.
    """
    if name == NONE:
        return None
    network = model.model.diffusion_model
    if isinstance(network, DiffusersNetwork):
        raise RequestError(
            f"trained_weights is {name!r}, and a model from FastVideo Load Diffusers Model has its file's trained weights "
            f"already: set trained_weights to {NONE}."
        )
    if not facts.plain:
        raise RequestError(
            f"trained_weights is {name!r}, and {facts.name} has control layers or inputs that no published weights were trained "
            f"for: set trained_weights to {NONE}."
        )
    return TrainedFile(name, transformer_folders().get(name) or model_file("diffusion_models", name))

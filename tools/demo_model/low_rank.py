"""A LoRA that is trained: on every linear layer of a transformer a low-rank change of its weight, and a change of its bias."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrize

from fastvideo_core.wan.loading import original_keys

PREFIX = "diffusion_model."
"""Of ComfyUI's and lightx2v's names."""


class LowRank(nn.Module):
    """weight + up @ down, which is the weight at first."""

    def __init__(self, outputs: int, inputs: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, inputs, generator=generator) / math.sqrt(inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.up @ self.down


def add_low_rank(transformer: WanTransformer3DModel, rank: int, seed: int) -> None:
    """Freezes the transformer, and puts a LoRA that changes nothing on it: all that has a gradient is the LoRA's."""
    transformer.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for linear in _linears(transformer).values():
        change = LowRank(linear.out_features, linear.in_features, rank, generator).to(linear.weight.device)
        parametrize.register_parametrization(linear, "weight", change)
        linear.bias.requires_grad_(True)


def low_rank_tensors(transformer: WanTransformer3DModel, base: WanTransformer3DModel) -> dict[str, torch.Tensor]:
    """What `add_low_rank` put on the transformer, in half precision, by lightx2v's names. base: as it was before."""
    untouched, tensors = base.state_dict(), {}
    originals = dict(zip(untouched, original_keys(untouched), strict=True))
    for name, linear in _linears(transformer).items():
        change, layer = linear.parametrizations.weight[0], PREFIX + originals[f"{name}.weight"].removesuffix(".weight")
        tensors[f"{layer}.lora_down.weight"] = change.down
        tensors[f"{layer}.lora_up.weight"] = change.up
        tensors[f"{layer}.alpha"] = torch.tensor(float(len(change.down)))
        tensors[f"{layer}.diff_b"] = linear.bias - untouched[f"{name}.bias"]
    return {key: value.detach().cpu().half().contiguous() for key, value in tensors.items()}


def save_low_rank(tensors: dict[str, torch.Tensor], path: Path, about: dict[str, str]) -> None:
    save_file(tensors, path, metadata=about)


def _linears(transformer: WanTransformer3DModel) -> dict[str, nn.Linear]:
    """Under diffusers' names; a layer with a parametrization is of a class of its own."""
    return {name: module for name, module in transformer.named_modules() if isinstance(module, nn.Linear)}

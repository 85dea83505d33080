"""LoRA files in every trainer's words, and the plain implementation of what they do to a network."""

import copy
from collections.abc import Callable, Mapping

import tiny
import tiny_transformer as files
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from fastvideo_core.wan.loading import original_keys
from fastvideo_core.wan.loading.keys import diffusers_key

Pairs = dict[str, tuple[Tensor, Tensor]]


def flat(name: str) -> str:
    return name.replace(".", "_")


FORMATS: Mapping[str, tuple[Callable[[str], str], str, str]] = {
    "diffusers": (lambda name: f"transformer.{diffusers_key(name)}", "lora_A.weight", "lora_B.weight"),
    "peft": (lambda name: f"base_model.model.{diffusers_key(name)}", "lora_A.weight", "lora_B.weight"),
    "diffusers, original names": (lambda name: f"transformer.{name}", "lora_A.weight", "lora_B.weight"),
    "ComfyUI": (lambda name: f"diffusion_model.{name}", "lora_A.weight", "lora_B.weight"),
    "ComfyUI, down and up": (lambda name: f"diffusion_model.{name}", "lora_down.weight", "lora_up.weight"),
    "ComfyUI, full prefix": (lambda name: f"model.diffusion_model.{name}", "lora_A.weight", "lora_B.weight"),
    "DiffSynth": (lambda name: name, "lora_A.default.weight", "lora_B.default.weight"),
    "bare diffusers": (diffusers_key, "lora.down.weight", "lora.up.weight"),
    "named model": (lambda name: f"model.{name}", "lora_A.weight", "lora_B.weight"),
    "named dit": (lambda name: f"dit.{name}", "lora_A.default.weight", "lora_B.default.weight"),
    "DiffSynth's pipeline": (lambda name: f"pipe.dit.{name}", "lora_A.default.weight", "lora_B.default.weight"),
    "dots and underscores": (lambda name: f"lora_unet_{name.replace('.', '_', 1)}", "lora_down.weight", "lora_up.weight"),
    "diffusers' scripts": (
        lambda name: f"transformer.{diffusers_key(name)}",
        "lora_linear_layer.down.weight",
        "lora_linear_layer.up.weight",
    ),
    "musubi": (lambda name: f"lora_unet_{flat(name)}", "lora_down.weight", "lora_up.weight"),
    "VideoX-Fun": (lambda name: f"lora_unet__{flat(name)}", "lora_down.weight", "lora_up.weight"),
    "OneTrainer": (lambda name: f"lora_transformer_{flat(diffusers_key(name))}", "lora_down.weight", "lora_up.weight"),
}


def written(pairs: Pairs, style: str, alpha: float | None = None) -> dict[str, Tensor]:
    name_of, down_end, up_end = FORMATS[style]
    tensors: dict[str, Tensor] = {}
    for name, (down, up) in pairs.items():
        tensors |= {f"{name_of(name)}.{down_end}": down, f"{name_of(name)}.{up_end}": up}
        if alpha is not None:
            tensors[f"{name_of(name)}.alpha"] = torch.tensor(alpha)
    return tensors


def merged(network: WanTransformer3DModel, changes: Mapping[str, Tensor]) -> WanTransformer3DModel:
    """The plain implementation: a copy whose weights (original names) have the changes added in float64."""
    merged = copy.deepcopy(network)
    weights = original_keys(merged.state_dict())
    for key, change in changes.items():
        weights[key].copy_(weights[key].double() + change.double().reshape(weights[key].shape))
    return merged


def products(pairs: Pairs, scale: float) -> dict[str, Tensor]:
    return {f"{name}.weight": scale * (up.double() @ down.double()) for name, (down, up) in pairs.items()}


def assert_computes_as(network: WanTransformer3DModel, reference: WanTransformer3DModel, plain: WanTransformer3DModel) -> None:
    expected = files.velocity(reference)
    assert tiny.relative_error(expected, files.velocity(plain)) > 0.05, "the LoRA of this test must matter"
    assert tiny.relative_error(files.velocity(network), expected) < 2e-6

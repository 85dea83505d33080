"""A LoRA on a MODEL of diffusers' network: read by the engine, added by core's patches, which its memory manager knows."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.lora
import torch

from .diffusers_network import DiffusersNetwork

if TYPE_CHECKING:
    from fastvideo_core.wan.loading import LayerChange, LoraReport

LORAS = "fastvideo_loras"
"""Among a MODEL's attachments: what its LoRAs changed, by `LoraReport`."""


def add_lora(model: Any, path: Path, strength: float) -> "LoraReport":
    """Onto a MODEL that nobody else has yet. What core's patches do not reach, since no layer owns it (modulation), is changed in
    place.

    Raises:
        LoadError: as `apply_lora`.
    """
    from fastvideo_core.wan.loading import read_lora

    network: DiffusersNetwork = model.model.diffusion_model
    lora = read_lora(network.transformer, path)
    for layer in lora.layers:
        if layer.parameter.endswith(".weight"):
            for patches in _patches(layer):
                model.add_patches(patches, strength)
        else:
            layer.apply(network.transformer, lora.name, strength)
    network.tables.take()
    report = lora.report(strength)
    model.set_attachments(LORAS, (*model_loras(model), report))
    return report


def model_loras(model: Any) -> tuple["LoraReport", ...]:
    """What the LoRAs that `add_lora` put on a MODEL changed."""
    found: tuple[LoraReport, ...] = model.get_attachment(LORAS) or ()
    return found


def _patches(layer: "LayerChange") -> list[dict[str, Any]]:
    """In core's form: parameter -> patch."""
    from fastvideo_core.wan.loading import original_key

    weight = f"diffusion_model.{original_key(layer.parameter)}"
    bias = f"{weight.removesuffix('weight')}bias"
    patches = []
    if "down" in layer.parts:
        down, up = layer.value("down"), layer.value("up")
        alpha = torch.tensor(layer.factor * down.shape[0], device="cpu")
        pair = {"it.lora_down.weight": down, "it.lora_up.weight": up, "it.alpha": alpha}
        patches.append(comfy.lora.load_lora(pair, {"it": weight}))
    if "weight" in layer.parts:
        patches.append({weight: ("diff", (layer.value("weight"),))})
    if "bias" in layer.parts:
        patches.append({bias: ("diff", (layer.value("bias"),))})
    if "up_bias" in layer.parts:
        patches.append({bias: ("diff", (layer.factor * layer.value("up_bias"),))})
    return patches

"""A file that workers shall open, looked at by its header alone, before anything is started for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_detection
import comfy.ops
import torch
from safetensors import SafetensorError, safe_open

from fastvideo_core import LoadError, counted, made_of

SHOWN = 5
"""So many wrong weights are named."""


@dataclass(frozen=True)
class Header:
    """weights: by core's names, without memory. packed: core's quantisation, whose weights have other shapes and dtypes."""

    weights: Mapping[str, torch.Tensor]
    floats: Mapping[str, bool]
    metadata: Mapping[str, str]
    packed: bool


def heads_of(path: Path) -> int:
    """Heads of attention of the Wan network in a file.

    Raises:
        LoadError: it is no safetensors file of a Wan network, or none of the network that it tells of: what a file lacks, core
            leaves as it is in memory.
    """
    header = _header(path)
    broken = f"{path} tells of no network that can be made"
    config = made_of(broken, lambda: comfy.model_detection.detect_unet_config(header.weights, "", metadata=header.metadata)) or {}
    if config.get("image_model") != "wan2.1":
        raise LoadError(f"{path} holds no Wan network: workers compute Wan 2.1 and 2.2. Use ComfyUI's own loader for this file.")
    wrong = _wrong(made_of(broken, lambda: _network(config, header.weights)), header)
    if wrong:
        raise LoadError(
            f"{path} is not whole, {counted(len(wrong), 'weight')} of it: {', '.join(wrong[:SHOWN])}. Download the file again."
        )
    return int(config["num_heads"])


def _header(path: Path) -> Header:
    try:
        with safe_open(path, "pt", device="cpu") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
            shapes = {key: each.get_shape() for key, each in slices.items()}
            floats = {key: each.get_dtype().startswith(("F", "BF")) for key, each in slices.items()}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise LoadError(f"{path} is no safetensors file ({error}). Workers open files of ComfyUI's own loader.") from error
    weights = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    prefix = comfy.model_detection.unet_prefix_from_state_dict(weights)
    packed = "_quantization_metadata" in metadata or any(key.endswith(".comfy_quant") for key in weights)
    named = {key.removeprefix(prefix): weight for key, weight in weights.items()}
    return Header(named, {key.removeprefix(prefix): each for key, each in floats.items()}, metadata, packed)


def _network(config: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """All weights of core's network of a configuration that was read of these."""
    known = comfy.model_detection.model_config_from_unet_config(dict(config), weights)
    known.set_inference_dtype(torch.float32, None)
    known.custom_operations = comfy.ops.disable_weight_init
    found: Mapping[str, torch.Tensor] = known.get_model({}, "", device=torch.device("meta")).diffusion_model.state_dict()
    return found


def _wrong(network: Mapping[str, torch.Tensor], header: Header) -> list[str]:
    """Weights that are missing, are of another shape, or are no floats; and those of blocks behind a gap, where core stops."""
    wrong = [f"{name} is missing" for name in network if name not in header.weights]
    blocks = {name.split(".")[1] for name in network if name.startswith("blocks.")}
    wrong += [f"{name} is of a block too many" for name in header.weights if _block(name) not in (None, *blocks)]
    for name, weight in network.items() if not header.packed else ():
        if name in header.weights and header.weights[name].shape != weight.shape:
            wrong.append(f"{name} is {tuple(header.weights[name].shape)}, not {tuple(weight.shape)}")
        elif not header.floats.get(name, True):
            wrong.append(f"{name} is of whole numbers")
    return wrong


def _block(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "blocks" and len(parts) > 1 else None

"""A tiny Wan in every precision in which people have it: files for core's loader, and what a GGUF loader makes."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_wan import METADATA
from torch import Tensor

Weights = dict[str, Tensor]


def matrices(weights: Weights) -> list[str]:
    """Of the blocks: what quantised files pack."""
    return [name for name, weight in weights.items() if weight.ndim == 2 and name.startswith("blocks.")]


def cast(weights: Weights, dtype: torch.dtype) -> Weights:
    return {name: weight.to(dtype) for name, weight in weights.items()}


def scaled_fp8(weights: Weights) -> Weights:
    """The older kind of scaled file: one scale per matrix, and a marker."""
    stored = cast(weights, torch.float16) | {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name in matrices(weights):
        scale = weights[name].abs().max() / 448
        stored[name] = (weights[name] / scale).to(torch.float8_e4m3fn)
        stored[name.removesuffix("weight") + "scale_weight"] = scale
    return stored


def comfy_quant(weights: Weights, kind: str, made: Mapping[str, Any] = {}, told: Mapping[str, Any] = {}) -> Weights:
    """The newer one, packed by core. made: how to pack; told: what else the file says of each layer."""
    from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

    if kind not in QUANT_ALGOS:
        pytest.skip(f"this ComfyUI does not read {kind}")
    stored = cast(weights, torch.bfloat16)
    for name in matrices(weights):
        packed = QuantizedTensor.from_float(weights[name].clone(), QUANT_ALGOS[kind]["comfy_tensor_layout"], **made)
        stored |= {key: part.clone() for key, part in packed.state_dict(name).items()}
        layer = json.dumps({"format": kind, **told}).encode()
        stored[name.removesuffix("weight") + "comfy_quant"] = torch.tensor(list(layer), dtype=torch.uint8)
    return stored


ROTATED = {"convrot": True, "convrot_groupsize": 64}
FILES: Mapping[str, Callable[[Weights], Weights]] = {
    "fp32": partial(cast, dtype=torch.float32),
    "bf16": partial(cast, dtype=torch.bfloat16),
    "fp16": partial(cast, dtype=torch.float16),
    "fp8": partial(cast, dtype=torch.float8_e4m3fn),
    "scaled_fp8": scaled_fp8,
    "fp8 e4m3": partial(comfy_quant, kind="float8_e4m3fn", made={"scale": "recalculate"}),
    "fp8 e5m2": partial(comfy_quant, kind="float8_e5m2", made={"scale": "recalculate"}),
    "mxfp8": partial(comfy_quant, kind="mxfp8"),
    "nvfp4": partial(comfy_quant, kind="nvfp4"),
    "int8": partial(comfy_quant, kind="int8_tensorwise"),
    "int8 rotated": partial(comfy_quant, kind="int8_tensorwise", made={"per_channel": True, **ROTATED}, told=ROTATED),
    "int4 rotated": partial(comfy_quant, kind="convrot_w4a4", made={"convrot_groupsize": 64}, told={"convrot_groupsize": 64}),
}
KINDS = [*FILES, "gguf"]


def load_kind(path: Path, kind: str, weights: Weights) -> Any:
    """These weights as a MODEL of that kind. path: of the file that is written for core's loader."""
    from comfy.sd import load_diffusion_model

    with torch.inference_mode():
        if kind == "gguf":
            from packed_wan import load_packed

            return load_packed(weights, matrices(weights))
        save_file(FILES[kind](weights), path, METADATA)
        return load_diffusion_model(str(path))

"""Weights in 8-bit floats: which stored tensors belong together, and what the weight is that they stand for.

Formats, as ComfyUI writes them: plain float8 (the value is the weight); `scaled_fp8` (`X.weight` with `X.scale_weight`, and
`X.scale_input` for its own float8 matrix product); `comfy_quant` (`X.weight_scale`, `X.input_scale`, and the format as JSON in
`X.comfy_quant` or, for all layers, in the header's `_quantization_metadata`). The weight is stored * scale in all of them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import LoadError
from ...json_object import read_json
from .checkpoint import Checkpoint, StoredTensor
from .keys import some

DTYPES = {
    "F64": torch.float32,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""Safetensors' names of the dtypes that a weight may have -> what it is in torch; a network of float64 computes in float32."""
FLOAT8 = ("F8_E4M3", "F8_E5M2")

_SCALE = (".scale_weight", ".weight_scale")
_INPUT_SCALE = (".scale_input", ".input_scale")  # for activations in float8: nothing to do with the weight
_FORMAT = ".comfy_quant"
_OTHER = {  # companions of formats that are not rescaled here
    ".weight_scale_2": "nvfp4",
    ".pre_quant_scale": "ModelOpt (AWQ)",
    ".weight_scale_inv": "block-scaled fp8",
    ".absmax": "bitsandbytes",
    ".quant_map": "bitsandbytes",
    ".SCB": "bitsandbytes int8",
    ".qweight": "GPTQ, AWQ or SVDQuant",
}
_RESCALED = ("float8_e4m3fn", "float8_e5m2")


@dataclass(frozen=True)
class StoredWeight:
    """A weight and, for a scaled one, its scale: one for the whole weight or one per row, (rows, 1)."""

    tensor: StoredTensor
    scale: StoredTensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    def read(self, dtype: torch.dtype) -> Tensor:
        """The weight in `dtype`. Rescaled in float32 and rounded once. Not copied when it is stored in that dtype."""
        value = self.tensor.read()
        if self.scale is None:
            return value.to(dtype)
        scale = self.scale.read().float()
        return (value.float() * (scale.reshape(()) if scale.numel() == 1 else scale)).to(dtype)


def has_float8(checkpoint: Checkpoint) -> bool:
    """Whether any weight is stored in 8 bits."""
    return any(tensor.dtype in FLOAT8 for tensor in checkpoint.tensors.values())


def stored_weights(tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str], where: str) -> dict[str, StoredWeight]:
    """Each weight with its scale; the markers of the quantisation are gone.

    Raises:
        LoadError: a format, dtype or scale that cannot be turned into the weight it stands for.
    """
    formats = _layer_formats(tensors, metadata, where)
    _refuse_formats({*formats.values(), *(name for end, name in _OTHER.items() for key in tensors if key.endswith(end))}, where)
    scales = {key.removesuffix(end) + ".weight": key for key in tensors for end in _SCALE if key.endswith(end)}
    packed = _packed(tensors) if scales or any(key.endswith("scaled_fp8") for key in tensors) else set()
    torn = [weight for weight in {*scales, *formats, *packed} if weight not in tensors or weight not in scales]
    if torn:
        raise LoadError(f"{where} lacks the weight or its scale: {some(sorted(torn))}. Download the file again.")
    left_out = (*_SCALE, *_INPUT_SCALE, _FORMAT)
    weights = {
        key: StoredWeight(tensor, tensors[scales[key]] if key in scales else None)
        for key, tensor in tensors.items()
        if key.split(".")[-1] != "scaled_fp8" and not key.endswith(left_out)
    }
    for key, weight in weights.items():
        _check(key, weight, where)
    return weights


def _packed(tensors: Mapping[str, StoredTensor]) -> set[str]:
    """Matrices in 8 bits: in a file of scaled ones each has its scale."""
    float8 = {key for key, tensor in tensors.items() if tensor.dtype in FLOAT8 and len(tensor.shape) > 1}
    return {key for key in float8 if key.endswith(".weight")}


def _layer_formats(tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str], where: str) -> dict[str, str]:
    """Weight in the file -> name of its comfy_quant format."""
    told = read_json(metadata.get("_quantization_metadata", "{}"), f"{where}: metadata `_quantization_metadata`")
    layers = told.get("layers", {})
    if not isinstance(layers, dict):
        raise LoadError(f"{where}: metadata `_quantization_metadata` has no table of layers. Download the file again.")
    for key, tensor in tensors.items():
        if key.endswith(_FORMAT):
            text = bytes(tensor.read().to(torch.uint8).flatten().tolist()).decode("utf-8", "replace")
            layers[key.removesuffix(_FORMAT)] = read_json(text, f"{where}: {key}")
    named = {f"{name}.weight": layer.get("format") if isinstance(layer, dict) else layer for name, layer in layers.items()}
    return {weight: str(name) for weight, name in named.items() if weight in tensors}


def _refuse_formats(formats: set[str], where: str) -> None:
    refused = sorted(formats.difference(_RESCALED))
    if refused:
        raise LoadError(
            f"{where} is quantised as {', '.join(refused)}, which cannot be turned into exact weights here. Use the bf16, fp16, "
            "fp8 or fp8_scaled file of the same model, or load this one with ComfyUI's own loader node and sample that MODEL."
        )


def _check(key: str, weight: StoredWeight, where: str) -> None:
    if weight.tensor.dtype not in DTYPES:
        raise LoadError(
            f"{where}: {key} is stored as {weight.tensor.dtype}, a quantisation that is not known here. Weights are "
            f"{', '.join(DTYPES)}. Use the bf16, fp16, fp8 or fp8_scaled file of the same model."
        )
    if weight.scale is not None and math.prod(weight.scale.shape) != 1 and weight.scale.shape != (weight.shape[0], 1):
        raise LoadError(
            f"{where}: the scale of {key} has shape {weight.scale.shape}; one scale per weight or one per row is read. Use the "
            "bf16, fp16 or fp8_scaled file of the same model."
        )

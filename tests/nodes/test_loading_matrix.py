"""FastVideo Load Diffusers Model over every naming and precision of a file, with a LoRA of its own and one of core's loader."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny_transformer as files
import torch
from safetensors.torch import save_file
from sampling import normal, relative_error
from test_diffusers_lora import ADAPTERS, lora_loader, pair, write
from test_diffusers_model import load
from tiny_wan import METADATA, random_weights
from torch import Tensor

from fastvideo_core.wan.loading.keys import diffusers_key

pytestmark = pytest.mark.usefixtures("direct")

Weights = dict[str, Tensor]

NAMES: Mapping[str, Callable[[str], str]] = {
    "original": lambda key: key,
    "diffusers": lambda key: diffusers_key(key) or key,
    "ComfyUI": lambda key: f"model.diffusion_model.{key}",
    "pipeline": lambda key: f"pipe.dit.{key}",
    "diffusers, prefixed": lambda key: f"transformer.{diffusers_key(key) or key}",
}


def stored_as(dtype: torch.dtype) -> Callable[[Weights], tuple[Weights, Weights]]:
    """The file's tensors, and the weights that they stand for."""

    def store(weights: Weights) -> tuple[Weights, Weights]:
        stored = {key: value.to(dtype) for key, value in weights.items()}
        return stored, {key: value.float() for key, value in stored.items()}

    return store


PRECISIONS: Mapping[str, tuple[Callable[[Weights], tuple[Weights, Weights]], str]] = {
    "float64": (stored_as(torch.float64), "float32"),
    "float32": (stored_as(torch.float32), "float32"),
    "bfloat16": (stored_as(torch.bfloat16), "bfloat16"),
    "float16": (stored_as(torch.float16), "float16"),
    "scaled_fp8": (files.fp8_scaled, "bfloat16"),
    "comfy_quant": (files.comfy_quant, "bfloat16"),
}
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 4e-3}


def with_lora(weights: Weights, lora: Weights, strength: float) -> Weights:
    changed = dict(weights)
    for down in (key for key in lora if key.endswith("lora_A.weight")):
        name = down.removeprefix("diffusion_model.").replace("lora_A.", "")
        changed[name] = changed[name] + strength * lora[down.replace("lora_A", "lora_B")] @ lora[down]
    return changed


def velocity(model: Any) -> Tensor:
    model.load(model.load_device, full_load=True)
    dtype = model.model.get_dtype_inference()
    x, context = normal(1, 1, 16, 3, 8, 8).to(dtype), normal(2, 1, 512, 32).to(dtype)
    out: Tensor = model.model.diffusion_model(x, torch.tensor([700.0]), context, transformer_options={}).float()
    model.unpatch_model(model.offload_device)
    return out


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("names", NAMES)
def test_every_naming_in_every_precision(comfy: Any, names: str, precision: str) -> None:
    folder: Path = comfy.model_folder("diffusion_models")
    store, dtype = PRECISIONS[precision]
    stored, meant = store(random_weights("t2v", 0))
    save_file({NAMES[names](key): value.contiguous() for key, value in stored.items()}, folder / "matrix.safetensors", METADATA)
    own = pair("diffusion_model.blocks.1.cross_attn.k")
    save_file(with_lora(with_lora(meant, own, 0.5), ADAPTERS["LoRA"], 0.8), folder / "matrix_merged.safetensors", METADATA)
    name = write(comfy, "matrix", {key.replace("diffusion_model.", "dit."): value for key, value in own.items()})
    model = lora_loader(comfy, load(comfy, "matrix.safetensors", "as stored", name, 0.5), write(comfy, "core", ADAPTERS["LoRA"]))
    assert str(model.model_dtype()) == f"torch.{dtype}"
    expected = velocity(load(comfy, "matrix_merged.safetensors"))
    assert relative_error(velocity(model), expected) < TOLERANCE[dtype]
    assert relative_error(velocity(load(comfy, "matrix.safetensors")), expected) > 0.05

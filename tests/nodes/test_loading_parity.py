"""ComfyUI's own loader and ours read the same file: the two networks compute the same."""

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_transformer as files
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file
from torch import Tensor

from fastvideo_core.wan.loading import apply_lora, load_transformer
from tools.comfy_in_process import ComfyInProcess

Weights = dict[str, Tensor]

CLIP_WIDTH = 1280  # ComfyUI's network reads CLIP tokens of this width, whatever the file has
SIZES = {"num_attention_heads": 2, "attention_head_dim": 128, "ffn_dim": 64, "freq_dim": 256}
METADATA = {"config": json.dumps({"transformer": {"text_dim": tiny.TEXT_DIM}})}
NETWORKS: Mapping[str, Callable[[], WanTransformer3DModel]] = {
    "t2v": lambda: tiny.transformer(in_channels=16, out_channels=16, **SIZES),
    "i2v_clip": lambda: tiny.transformer(in_channels=36, out_channels=16, image_dim=CLIP_WIDTH, added_kv_proj_dim=256, **SIZES),
}
FILES: Mapping[str, Callable[[Weights], Weights]] = {
    "float32": lambda weights: weights,
    "plain float8": lambda weights: weights | {key: weights[key].to(torch.float8_e4m3fn) for key in files.block_linears(weights)},
    "fp8_scaled": lambda weights: files.fp8_scaled(weights)[0],
    "fp8_scaled with prefix": lambda weights: files.fp8_scaled(weights, "model.diffusion_model.")[0],
    "comfy_quant e4m3": lambda weights: files.comfy_quant(weights)[0],
    "comfy_quant e5m2": lambda weights: files.comfy_quant(weights, dtype=torch.float8_e5m2)[0],
}
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}


@torch.no_grad()
def comfy_velocity(patcher: Any) -> Tensor:
    """What ComfyUI's network computes for the inputs of `files.velocity`."""
    management = importlib.import_module("comfy.model_management")
    management.load_models_gpu([patcher])
    network, dtype, device = patcher.model.diffusion_model, patcher.model.get_dtype_inference(), patcher.load_device
    inputs = {
        "x": tiny.normal((1, network.in_dim, 3, 4, 6), 1).to(device, dtype),
        "timestep": torch.tensor([700.0], device=device),
        "context": tiny.normal((1, 512, tiny.TEXT_DIM), 2).to(device, dtype),
    }
    if network.img_emb is not None:
        inputs["clip_fea"] = tiny.normal((1, tiny.CLIP_TOKENS, CLIP_WIDTH), 3).to(device, dtype)
    return network(**inputs).float().cpu()


def comfy_dtype(patcher: Any) -> torch.dtype:
    return patcher.model.get_dtype_inference()


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("written", FILES)
def test_both_loaders_give_the_same_network(kind: str, written: str, comfy: ComfyInProcess, tmp_path: Path) -> None:
    path = files.save(FILES[written](files.original(NETWORKS[kind]())), tmp_path / "wan.safetensors", METADATA)
    patcher = importlib.import_module("comfy.sd").load_diffusion_model(str(path))
    dtype = comfy_dtype(patcher)
    ours = files.velocity(load_transformer(path, dtype))
    assert tiny.relative_error(ours, comfy_velocity(patcher)) < TOLERANCE[dtype]


def test_both_apply_a_lora_of_pairs_and_differences_alike(comfy: ComfyInProcess, tmp_path: Path) -> None:
    network = NETWORKS["t2v"]()
    path = files.save(files.original(network), tmp_path / "wan.safetensors", METADATA)
    lora = files.save(files.lightx2v_lora(network), tmp_path / "lora.safetensors", None)
    loader = importlib.import_module("comfy.sd")
    patcher, _ = loader.load_lora_for_models(loader.load_diffusion_model(str(path)), None, load_file(lora), 0.7, 0)
    dtype = comfy_dtype(patcher)
    ours = load_transformer(path, dtype)
    plain = files.velocity(ours)
    apply_lora(ours, lora, 0.7)
    changed = files.velocity(ours)
    assert tiny.relative_error(changed, plain) > 0.05
    assert tiny.relative_error(changed, comfy_velocity(patcher)) < TOLERANCE[dtype]

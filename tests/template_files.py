"""The files that the templates name, as small as core reads them: the published layouts, precisions and names, random weights.

Heads are 128 wide, the text 4096 and image tokens 1280, as published; blocks are few and narrow. A server reads them with
`smaller_core`, which has the same figures.
"""

import shutil
import zlib
from pathlib import Path
from typing import Any

import tiny
import tiny_model
import torch
from diffusers import WanTransformer3DModel
from lora_files import written
from safetensors.torch import load_file, save_file
from tiny_files import clip_file, text_file, vae_file
from tiny_transformer import fp8_scaled, lightx2v_lora, original, pairs
from torch import Tensor

DEMO_VAE = Path(__file__).resolve().parents[1] / "models" / "demo" / "demo_wan_vae.safetensors"
SIZES = {"num_attention_heads": 1, "attention_head_dim": 128, "ffn_dim": 256, "text_dim": 4096, "freq_dim": 256}
IMAGE_TOKENS = {"image_dim": 1280, "added_kv_proj_dim": 128}
TEXT_MARK = "encoder.block.23.layer.1.DenseReluDense.wi_1.weight"
TOWER_MARK = "vision_model.encoder.layers.30.layer_norm1.weight"
"""Weights by whose presence core knows UMT5-XXL and ViT-H, in layers that the small ones have not."""


def write(path: Path) -> None:
    """The file of that name; the name of its folder, one of ComfyUI's, says what it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[path.parent.name](path)


def network(name: str) -> WanTransformer3DModel:
    """Of a transformer's file, or the one that a LoRA is for."""
    kind: dict[str, Any] = {"in_channels": 36, "out_channels": 16}
    if "ti2v" in name.lower():
        kind = {"in_channels": 48, "out_channels": 48}
    elif "t2v" in name.lower():
        kind = {"in_channels": 16, "out_channels": 16}
    elif "wan2.2" not in name:
        kind |= IMAGE_TOKENS | ({"pos_embed_seq_len": 514} if "flf2v" in name else {})
    blocks = 3 if "14B" in name else 2
    return tiny.transformer(zlib.crc32(name.encode()), num_layers=blocks, **SIZES, **kind)


def _transformer(path: Path) -> None:
    weights = original(network(path.name))
    if "fp8_scaled" in path.name:
        weights, _ = fp8_scaled(weights)
    save_file(_in_16_bits(weights), path)


def _lora(path: Path) -> None:
    """Of lightx2v: with differences of biases and norms for Wan 2.1, with alphas for 2.2."""
    base = network(path.name)
    save_file(written(pairs(base), "ComfyUI, down and up", alpha=4.0) if "wan2.2" in path.name else lightx2v_lora(base), path)


def _text_encoder(path: Path) -> None:
    weights = tiny_model.umt5(width=SIZES["text_dim"]).state_dict()
    linears = [name for name in weights if ".layer." in name and weights[name].ndim == 2 and "bias" not in name]
    stored, _ = fp8_scaled(weights, linears=linears)
    text_file(path, _in_16_bits(stored | {TEXT_MARK: torch.zeros(10240, 1)}))


def _clip_vision(path: Path) -> None:
    clip_file(path, tiny_model.clip(width=IMAGE_TOKENS["image_dim"], heads=16).half())
    save_file(load_file(path) | {TOWER_MARK: torch.ones(IMAGE_TOKENS["image_dim"])}, path)


def _vae(path: Path) -> None:
    if "2.2" in path.name:
        vae_file(path, tiny.vae_48())
    else:
        shutil.copyfile(DEMO_VAE, path)


def _in_16_bits(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """But for scales."""
    wide = {name for name, weight in weights.items() if weight.dtype is torch.float32 and weight.ndim}
    return {name: (weight.half() if name in wide else weight).contiguous() for name, weight in weights.items()}


WRITERS = {
    "diffusion_models": _transformer, "loras": _lora, "text_encoders": _text_encoder, "clip_vision": _clip_vision, "vae": _vae,
}  # fmt: skip

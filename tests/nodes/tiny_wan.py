"""Tiny real Wan networks as files that core's loaders accept: core's own WanModel with random weights, fixed seed."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

KINDS: dict[str, dict[str, Any]] = {
    "t2v": {"model_type": "t2v", "in_dim": 16, "out_dim": 16},
    "i2v_clip": {"model_type": "i2v", "in_dim": 36, "out_dim": 16},  # Wan 2.1
    "flf2v": {"model_type": "i2v", "in_dim": 36, "out_dim": 16, "flf_pos_embed_token_number": 514},
    "i2v": {"model_type": "t2v", "in_dim": 36, "out_dim": 16},  # Wan 2.2 A14B
    "ti2v": {"model_type": "t2v", "in_dim": 48, "out_dim": 48},  # Wan 2.2 5B
}
TEXT_DIM = 32


def random_weights(kind: str, seed: int, dim: int = 64, layers: int = 2) -> dict[str, torch.Tensor]:
    """State dict of core's network of that kind, in original Wan keys."""
    import comfy.ops
    from comfy.ldm.wan.model import WanModel

    network = WanModel(
        text_dim=TEXT_DIM, dim=dim, ffn_dim=2 * dim, num_heads=dim // 64, num_layers=layers, dtype=torch.float32,
        device=torch.device("cpu"), operations=comfy.ops.disable_weight_init, **KINDS[kind],
    )  # fmt: skip
    return scaled(network.state_dict(), seed)


def scaled(names: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Random weights of these names and shapes, scaled so that activations stay near 1."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, value in names.items():
        noise = torch.randn(value.shape, generator=generator)
        if key.endswith(".weight") and value.ndim > 1:
            weights[key] = noise / value[0].numel() ** 0.5
        elif "norm" in key and key.endswith(".weight"):
            weights[key] = 1 + 0.1 * noise
        else:
            weights[key] = 0.1 * noise
    return weights


def metadata(heads: int) -> dict[str, str]:
    """Tells core's loader, and the engine's, of the small sizes."""
    return {"config": json.dumps({"transformer": {"text_dim": TEXT_DIM, "num_heads": heads}})}


METADATA = metadata(heads=1)


def save_wan(folder: Path, name: str, kind: str, seed: int = 0, dim: int = 64, layers: int = 2) -> Path:
    """Writes `name`.safetensors with the metadata that tells core's loader of the small sizes."""
    path = folder / f"{name}.safetensors"
    save_file(random_weights(kind, seed, dim, layers), path, metadata(dim // 64))
    return path


def save_lora(folder: Path) -> Path:
    """A LoRA for two layers of the first block, in the names of core's files, which the engine reads as well."""
    path, weights = folder / "tiny.safetensors", {}
    generator = torch.Generator().manual_seed(40)
    for layer, inner, outer in (("self_attn.q", 64, 64), ("ffn.0", 64, 128)):
        name = f"diffusion_model.blocks.0.{layer}"
        weights[f"{name}.lora_A.weight"] = 0.3 * torch.randn(4, inner, generator=generator)
        weights[f"{name}.lora_B.weight"] = 0.3 * torch.randn(outer, 4, generator=generator)
    save_file(weights, path)
    return path


def conditioning(seed: int, batch: int = 1, **extra: Any) -> list[Any]:
    """CONDITIONING of 20 random rows padded with zeros to 512."""
    rows = torch.zeros(batch, 512, TEXT_DIM)
    rows[:, :20] = torch.randn(batch, 20, TEXT_DIM, generator=torch.Generator().manual_seed(seed))
    return [[rows, {"pooled_output": None, **extra}]]

"""Writes the models as single safetensors files in the layouts of the original Wan release.

The names of the original layouts come from the published checkpoints (Wan-AI/Wan2.1-T2V-1.3B); ComfyUI's core loaders
read them, with the size of a small transformer in the metadata entry `config`.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import save_file

from fastvideo_core.wan.loading import original_keys
from fastvideo_core.wan.vae_keys import original_key

from .text import TEXT_DIM, PromptEncoder
from .transformer import HEADS

TEXT_SIZES = ("model_type", "vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers")


def save_transformer(model: WanTransformer3DModel, path: Path, about: dict[str, str]) -> None:
    """Writes a transformer; `config` tells loaders what they cannot see in the weights' shapes."""
    config = {"transformer": {"text_dim": TEXT_DIM, "num_heads": HEADS}}
    _save(original_keys(model.state_dict()), path, {**about, "config": json.dumps(config)})


def save_vae(vae: AutoencoderKLWan, path: Path, about: dict[str, str]) -> None:
    """Writes the VAE."""
    blocks = vae.config.num_res_blocks
    _save({original_key(name, blocks): value for name, value in vae.state_dict().items()}, path, about)


def save_text_encoder(prompts: PromptEncoder, path: Path, about: dict[str, str]) -> None:
    """Writes the UMT5 encoder under its usual names with its tokenizer, a sentencepiece model, as bytes."""
    weights = prompts.encoder.state_dict()
    weights.pop("encoder.embed_tokens.weight", None)  # the same tensor as `shared.weight`
    sizes = {name: getattr(prompts.encoder.config, name) for name in TEXT_SIZES}
    _save(
        weights,
        path,
        {**about, "config": json.dumps(sizes)},
        spiece_model=torch.frombuffer(bytearray(prompts.tokenizer_model), dtype=torch.uint8),
    )


def _save(weights: dict[str, torch.Tensor], path: Path, about: dict[str, str], **extra: torch.Tensor) -> None:
    half = {name: value.detach().cpu().half().contiguous() for name, value in weights.items()}
    save_file({**half, **extra}, path, metadata=about)

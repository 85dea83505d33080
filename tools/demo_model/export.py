"""Writes the models as single safetensors files in the layouts of the original Wan release.

The names of the original layouts come from the published checkpoints (Wan-AI/Wan2.1-T2V-1.3B); ComfyUI's core loaders
read them, with the size of a small transformer in the metadata entry `config`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import save_file
from torch import nn

from .text import TEXT_DIM, PromptEncoder
from .transformer import HEADS

TRANSFORMER_NAMES = (
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^proj_out\.", "head.head."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"\.scale_shift_table$", ".modulation"),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".o."),
    (r"\.norm2\.", ".norm3."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
)
VAE_NAMES = (
    (r"\.mid_block\.resnets\.0\.", ".middle.0."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
    (r"\.mid_block\.resnets\.1\.", ".middle.2."),
    (r"coder\.norm_out\.", "coder.head.0."),
    (r"coder\.conv_in\.", "coder.conv1."),
    (r"coder\.conv_out\.", "coder.head.2."),
    (r"\.down_blocks\.", ".downsamples."),
    (r"^post_quant_conv\.", "conv2."),
    (r"^quant_conv\.", "conv1."),
    (r"(middle|samples)\.(\d+)\.norm1\.", r"\1.\2.residual.0."),
    (r"(middle|samples)\.(\d+)\.conv1\.", r"\1.\2.residual.2."),
    (r"(middle|samples)\.(\d+)\.norm2\.", r"\1.\2.residual.3."),
    (r"(middle|samples)\.(\d+)\.conv2\.", r"\1.\2.residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
)
TEXT_SIZES = ("model_type", "vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers")
BLOCKS_PER_LEVEL = 3  # residual blocks of a decoder level with two blocks per encoder level


def transformer_name(name: str) -> str:
    """The original name of a weight of diffusers' transformer."""
    return _renamed(name, TRANSFORMER_NAMES)


def vae_name(name: str) -> str:
    """The original name of a weight of diffusers' VAE; there a decoder's layers are counted through all levels."""
    return _renamed(_flat_decoder(name), VAE_NAMES)


def _flat_decoder(name: str) -> str:
    def position(found: re.Match[str]) -> str:
        level, kind, index = int(found[1]), found[2], int(found[3])
        return f"decoder.upsamples.{level * (BLOCKS_PER_LEVEL + 1) + (index if kind == 'resnets' else BLOCKS_PER_LEVEL)}."

    return re.sub(r"^decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.", position, name)


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def save_transformer(model: WanTransformer3DModel, path: Path, about: dict[str, str]) -> None:
    """Writes a transformer; `config` tells loaders what they cannot see in the weights' shapes."""
    config = {"transformer": {"text_dim": TEXT_DIM, "num_heads": HEADS}}
    _save(_named(model, transformer_name), path, {**about, "config": json.dumps(config)})


def save_vae(vae: AutoencoderKLWan, path: Path, about: dict[str, str]) -> None:
    """Writes the VAE."""
    _save(_named(vae, vae_name), path, about)


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


def _named(module: nn.Module, name: Callable[[str], str]) -> dict[str, torch.Tensor]:
    return {name(key): value for key, value in module.state_dict().items()}


def _save(weights: dict[str, torch.Tensor], path: Path, about: dict[str, str], **extra: torch.Tensor) -> None:
    half = {name: value.detach().cpu().half().contiguous() for name, value in weights.items()}
    save_file({**half, **extra}, path, metadata=about)

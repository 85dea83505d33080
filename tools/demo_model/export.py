"""Writes the models as single safetensors files in the layouts of the original Wan release.

The names of the original layouts come from the published checkpoints (Wan-AI/Wan2.1-T2V-1.3B); ComfyUI's core loaders
read them, with the size of a small transformer in the metadata entry `config`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import save_file

from fastvideo_core.wan.loading import original_keys

from .text import TEXT_DIM, PromptEncoder
from .transformer import HEADS

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


def vae_name(name: str) -> str:
    """The original name of a weight of diffusers' VAE; there a decoder's layers are counted through all levels."""
    name = _flat_decoder(name)
    for pattern, replacement in VAE_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _flat_decoder(name: str) -> str:
    def position(found: re.Match[str]) -> str:
        level, kind, index = int(found[1]), found[2], int(found[3])
        return f"decoder.upsamples.{level * (BLOCKS_PER_LEVEL + 1) + (index if kind == 'resnets' else BLOCKS_PER_LEVEL)}."

    return re.sub(r"^decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.", position, name)


def save_transformer(model: WanTransformer3DModel, path: Path, about: dict[str, str]) -> None:
    """Writes a transformer; `config` tells loaders what they cannot see in the weights' shapes."""
    config = {"transformer": {"text_dim": TEXT_DIM, "num_heads": HEADS}}
    _save(original_keys(model.state_dict()), path, {**about, "config": json.dumps(config)})


def save_vae(vae: AutoencoderKLWan, path: Path, about: dict[str, str]) -> None:
    """Writes the VAE."""
    _save({vae_name(name): value for name, value in vae.state_dict().items()}, path, about)


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

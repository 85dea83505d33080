"""Reads the shipped files back into diffusers' modules."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file
from torch import nn

from fastvideo_core import apply_lora
from fastvideo_core.wan.loading import original_keys
from fastvideo_core.wan.vae_keys import original_key

from .sampling import DemoModels
from .text import PromptEncoder
from .train_transformers import BOUNDARY
from .transformer import build_transformer
from .vae import build_vae

Module = TypeVar("Module", bound=nn.Module)
FOLDER = Path(__file__).resolve().parents[2] / "models" / "demo"


def shipped_vae(folder: Path = FOLDER) -> AutoencoderKLWan:
    """The VAE in single precision."""
    vae = build_vae()
    renamed = partial(original_key, res_blocks=vae.config.num_res_blocks)
    return _filled(vae, load_file(folder / "demo_wan_vae.safetensors"), renamed)


def shipped_text_encoder(folder: Path = FOLDER) -> PromptEncoder:
    """The text encoder with its tokenizer, in single precision."""
    weights = load_file(folder / "demo_umt5.safetensors")
    prompts = PromptEncoder(weights.pop("spiece_model").numpy().tobytes())
    weights["encoder.embed_tokens.weight"] = weights["shared.weight"]
    _filled(prompts.encoder, weights, lambda name: name)
    return prompts


def shipped_transformer(name: str, folder: Path = FOLDER) -> WanTransformer3DModel:
    """`t2v`, `i2v`, `high_noise` or `low_noise`, in single precision, for prompts of `shipped_text_encoder`."""
    weights = load_file(folder / f"demo_wan_{name}.safetensors")
    model = build_transformer(weights["patch_embedding.weight"].shape[1])
    originals = dict(zip(model.state_dict(), original_keys(model.state_dict()), strict=True))
    return _filled(model, weights, originals.__getitem__)


def shipped_models(kind: str, folder: Path = FOLDER) -> DemoModels:
    """All that `sampling.generate` needs; `kind` is `t2v`, `i2v` or `two experts`."""
    vae, prompts = shipped_vae(folder), shipped_text_encoder(folder)
    if kind == "two experts":
        high, low = (shipped_transformer(name, folder) for name in ("high_noise", "low_noise"))
        return DemoModels(vae, prompts, high, low, BOUNDARY)
    return DemoModels(vae, prompts, shipped_transformer(kind, folder))


def distilled_models(kind: str, folder: Path = FOLDER) -> DemoModels:
    """As `shipped_models`, `t2v` or `two experts`, with the LoRAs in `folder` for few steps without guidance."""
    models = shipped_models(kind)
    if models.low_noise is None:
        apply_lora(models.transformer, folder / f"demo_lora_{kind}.safetensors")
    else:
        apply_lora(models.transformer, folder / "demo_lora_high_noise.safetensors")
        apply_lora(models.low_noise, folder / "demo_lora_low_noise.safetensors")
    return models


def _filled(module: Module, weights: dict[str, torch.Tensor], renamed: Callable[[str], str]) -> Module:
    module.load_state_dict({name: weights[renamed(name)].float() for name in module.state_dict()})
    return module.requires_grad_(False)

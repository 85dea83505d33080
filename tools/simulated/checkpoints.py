"""Wan's checkpoints of their true size."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import nn

from fastvideo_core import VideoSize
from fastvideo_core.wan.variants import WanVariant

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

FLOAT32 = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")
"""What diffusers keeps in float32 (transformer_wan.py, _keep_in_fp32_modules)."""
FFN_DIM: Mapping[int, int] = MappingProxyType({1536: 8960, 3072: 14336, 5120: 13824})
"""By dim: config.json of the checkpoints' transformers."""
IMAGE_DIM = 1280  # of CLIP's ViT-H
TEXT_DIM = 4096  # of UMT5-XXL


@dataclass(frozen=True, kw_only=True)
class TrueSize:
    """A checkpoint's measures, and the latents (B, C, T, H, W) of its usual video.

    channels: that the network reads and writes.
    """

    dim: int
    ffn_dim: int
    shape: tuple[int, ...]
    channels: tuple[int, int] = (16, 16)
    image_tokens: int = 0
    first_frame: bool = False
    head_dim: int = 128
    layers: int = 40

    @classmethod
    def of(cls, variant: WanVariant) -> "TrueSize":
        """At the size that its authors sample it in."""
        size = VideoSize(width=variant.width, height=variant.height, frames=variant.frames, spatial=variant.spatial, temporal=4)
        return cls(
            dim=variant.dim,
            ffn_dim=FFN_DIM[variant.dim],
            shape=size.latent_shape(variant.latent_channels),
            channels=(variant.in_channels, variant.latent_channels),
            image_tokens=variant.image_tokens,
            first_frame=variant.first_frame,
            layers=variant.layers,
        )

    def network(self, dtype: torch.dtype, layers: int | None = None) -> "WanTransformer3DModel":
        """Diffusers', with random weights of the dtypes that a checkpoint in `dtype` has there. layers: all of them when None."""
        from diffusers import WanTransformer3DModel

        read, written = self.channels
        network = WanTransformer3DModel(
            num_attention_heads=self.dim // self.head_dim, attention_head_dim=self.head_dim, ffn_dim=self.ffn_dim,
            num_layers=layers or self.layers, in_channels=read, out_channels=written, text_dim=TEXT_DIM,
            image_dim=IMAGE_DIM if self.image_tokens else None, added_kv_proj_dim=self.dim if self.image_tokens else None,
            pos_embed_seq_len=self.image_tokens if self.image_tokens > 257 else None,
        ).eval()  # fmt: skip
        for name, module in network.named_modules():
            for key, weight in module.named_parameters(recurse=False):
                kept = any(part in FLOAT32 for part in f"{name}.{key}".split("."))
                cast = weight.detach().to(torch.float32 if kept else dtype)
                module._parameters[key] = nn.Parameter(cast, requires_grad=False)
        return network

"""Tiny Wan networks of every kind for several ranks: 4 heads, videos of any size and number."""

from collections.abc import Mapping
from typing import Any

import tiny
import torch
from diffusers import WanTransformer3DModel

from fastvideo_core import Conditioning, GivenFrame, image_condition
from fastvideo_core.wan.flow_map_embedding import FlowMapEmbedding

CLIP = {"image_dim": tiny.IMAGE_DIM, "added_kv_proj_dim": 48}
KINDS: Mapping[str, dict[str, Any]] = {
    "T2V": {"in_channels": 16, "out_channels": 16},
    "I2V with CLIP": {"in_channels": 36, "out_channels": 16, **CLIP},
    "FLF2V": {"in_channels": 36, "out_channels": 16, "pos_embed_seq_len": 2 * tiny.CLIP_TOKENS, **CLIP},
    "I2V 2.2": {"in_channels": 36, "out_channels": 16},
    "TI2V": {"in_channels": 48, "out_channels": 48},
    "AnyFlow": {"in_channels": 16, "out_channels": 16},
}
HEADS = 4
CPU = torch.device("cpu")


def network(
    kind: str = "T2V", seed: int = 0, dtype: torch.dtype = torch.float64, layers: int = 2, heads: int = HEADS
) -> WanTransformer3DModel:
    made = tiny.transformer(seed, num_attention_heads=heads, num_layers=layers, **KINDS[kind])
    if kind == "FLF2V":
        embedder = made.condition_embedder.image_embedder
        embedder.pos_embed.copy_(tiny.normal(tuple(embedder.pos_embed.shape), seed))  # zeros as made
    if kind == "AnyFlow":
        made.condition_embedder = tiny.seeded(seed, FlowMapEmbedding, 12 * heads, 32, tiny.TEXT_DIM, 0.25, False)
    return made.requires_grad_(False).to(dtype)


def latents(kind: str, size: tuple[int, int, int], samples: int) -> torch.Tensor:
    """size: in latents."""
    return tiny.normal((samples, KINDS[kind]["out_channels"], *size), 7)


def conditioning(kind: str, size: tuple[int, int, int]) -> Conditioning:
    known = torch.zeros(4 * (size[0] - 1) + 1, dtype=torch.bool)
    known[0] = True
    images = {"I2V with CLIP": 1, "FLF2V": 2}.get(kind, 0)
    return Conditioning(
        **tiny.texts(),
        image=image_condition(tiny.normal((1, 16, *size), 103), known) if kind.startswith("I2V") or images else None,
        image_tokens=tiny.normal((1, images * tiny.CLIP_TOKENS, tiny.IMAGE_DIM), 104) if images else None,
        first_frame=GivenFrame(tiny.normal((1, 48, 1, *size[1:]), 105)) if kind == "TI2V" else None,
    )

"""How much GPU memory a workflow's sampling takes, by the engine's own estimate (`fastvideo_core.wan.memory`), with the step
cache that fits its variant: MagCache where there is a ratio table."""

import torch
from diffusers import WanTransformer3DModel

from fastvideo_core import plan, shifted_sigmas
from fastvideo_core.step_cache import DBCACHE_PRESETS, DBCache, MagCache, RatioTable, published_tables, recommended
from fastvideo_core.wan import WanVariant
from fastvideo_core.wan.memory import activation_bytes
from tools.workflows.columns import VideoSize

FFN_DIM = {1536: 8960, 3072: 14336, 5120: 13824}
"""By width: config.json of the checkpoints' transformers."""
HEAD_DIM = 128


def step_bytes(variant: WanVariant, size: VideoSize, branches: int, tokens_held: int = 0) -> int:
    """Of one call of the network beside its weights, in 16 bits. tokens_held: by a step cache, for each branch."""
    height, width = size.height // variant.spatial, size.width // variant.spatial
    shape = (1, variant.latent_channels, (size.length - 1) // 4 + 1, height, width)
    return activation_bytes(network(variant), shape, branches, tokens_held)


def tokens_held(variant: WanVariant) -> int:
    """By the variant's step cache with its settings for auto, as its authors sample it."""
    sigmas = shifted_sigmas(variant.steps, variant.shift)
    schedule = plan(sigmas, variant.guidance_scale, variant.low_noise_guidance_scale, variant.boundary)
    table = published_table(variant)
    cache = DBCache(schedule, DBCACHE_PRESETS["auto"]) if table is None else MagCache(schedule, table, recommended(table))
    return max(cache.open(phase).tokens_held for phase in schedule.phases)


def published_table(variant: WanVariant) -> RatioTable | None:
    """The ratio table that FastVideo MagCache finds without a first frame as latents."""
    return published_tables().get(f"{variant.name}_t2v" if variant.first_frame else variant.name)


def network(variant: WanVariant, layers: int = 1) -> WanTransformer3DModel:
    """A network of the variant's measures that has no values."""
    tokens = variant.image_tokens
    with torch.device("meta"):
        made = WanTransformer3DModel(
            num_attention_heads=variant.dim // HEAD_DIM, attention_head_dim=HEAD_DIM, ffn_dim=FFN_DIM[variant.dim],
            num_layers=layers, in_channels=variant.in_channels, out_channels=variant.latent_channels,
            image_dim=1280 if tokens else None, added_kv_proj_dim=variant.dim if tokens else None,
            pos_embed_seq_len=tokens if tokens > 257 else None,
        )  # fmt: skip
    made.patch_embedding.to(torch.bfloat16)  # what tells in which numbers it computes
    return made

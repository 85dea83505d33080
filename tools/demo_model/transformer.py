"""The demo transformers: diffusers' WanTransformer3DModel with two heads of 128, and its flow matching loss."""

from __future__ import annotations

import math

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor

from .text import TEXT_DIM

TEXT_ROWS = 512
LAYERS, HEADS, FEED_FORWARD = 4, 2, 512
SHIFT = 5.0  # of the sigmas, in training and in sampling


class FoldedText(WanAttnProcessor):
    """Cross-attention over rows whose last one stands for all the zero rows up to 512."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        rows = encoder_hidden_states.shape[1]
        bias = hidden_states.new_zeros(1, 1, 1, rows)
        bias[..., -1] = math.log(TEXT_ROWS - rows + 1)
        return super().__call__(attn, hidden_states, encoder_hidden_states, bias, rotary_emb)


def build_transformer(in_channels: int = 16) -> WanTransformer3DModel:
    """A random transformer whose output starts at zero; 36 input channels make it an image-to-video one."""
    model = WanTransformer3DModel(
        num_attention_heads=HEADS,
        attention_head_dim=128,
        in_channels=in_channels,
        out_channels=16,
        text_dim=TEXT_DIM,
        ffn_dim=FEED_FORWARD,
        num_layers=LAYERS,
        rope_max_seq_len=64,
    )
    torch.nn.init.zeros_(model.proj_out.weight)
    torch.nn.init.zeros_(model.proj_out.bias)
    for block in model.blocks:
        block.attn2.set_processor(FoldedText())
    return model


def image_to_video_from(text_to_video: WanTransformer3DModel) -> WanTransformer3DModel:
    """The same transformer with 20 more input channels (mask and image latents) that do not matter yet."""
    model = build_transformer(in_channels=36)
    weights = text_to_video.state_dict()
    patch = torch.zeros_like(model.patch_embedding.weight)
    patch[:, :16] = weights["patch_embedding.weight"]
    model.load_state_dict({**weights, "patch_embedding.weight": patch})
    return model


def shifted(sigma: torch.Tensor) -> torch.Tensor:
    """Wan's sigma shift, s * x / (1 + (s - 1) * x)."""
    return SHIFT * sigma / (1 + (SHIFT - 1) * sigma)


def unshifted(sigma: float) -> float:
    """The inverse of `shifted`."""
    return sigma / (SHIFT - (SHIFT - 1) * sigma)


def flow_loss(
    model: WanTransformer3DModel,
    latents: torch.Tensor,
    rows: torch.Tensor,
    sigma: torch.Tensor,
    noise: torch.Tensor,
    condition: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean squared error of the velocity `noise - latents` at `(1 - sigma) * latents + sigma * noise`."""
    level = sigma.view(-1, 1, 1, 1, 1)
    noisy = (1 - level) * latents + level * noise
    if condition is not None:
        noisy = torch.cat([noisy, condition], dim=1)
    velocity = model(noisy, sigma * 1000, rows, return_dict=False)[0]
    return (velocity.float() - (noise - latents)).square().mean()

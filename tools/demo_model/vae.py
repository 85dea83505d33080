"""The demo VAE: diffusers' AutoencoderKLWan (z = 16, 8x8x4, causal) with few channels, run on whole clips at once.

`AutoencoderKLWan` walks a clip in chunks of four frames with caches; for training, the same modules are applied
here to all frames in one pass, which gives the same numbers (a test compares them) at a fraction of the time.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResample, WanResidualBlock
from torch import nn
from torch.nn import functional as F  # noqa: N812

BASE_DIM = 16
LATENT_CHANNELS = 16
GAINS = {"conv2": 0.5}  # of the second convolution of a residual block
POSTERIOR_STD = 0.1  # fixed spread of the posterior, in units of a latent's own standard deviation (about 1)


def build_vae(base_dim: int = BASE_DIM) -> AutoencoderKLWan:
    """A random VAE in Wan 2.1's layout that starts out treating every frame alike, so that it can learn frames first."""
    vae = AutoencoderKLWan(base_dim=base_dim)
    with torch.no_grad():
        for name, module in vae.named_modules():
            if name.endswith("time_conv"):
                _start_as_identity(module)
            elif isinstance(module, (nn.Conv2d, nn.Conv3d)):
                _start_in_space(module, gain=GAINS.get(name.rpartition(".")[2], 1.0))
        vae.quant_conv.weight[LATENT_CHANNELS:] = 0
        vae.quant_conv.bias[LATENT_CHANNELS:] = 2 * torch.tensor(POSTERIOR_STD).log()
    return vae


def _start_in_space(conv: nn.Conv2d | nn.Conv3d, gain: float) -> None:
    """Keeps the variance; a kernel over time starts with weights for the newest frame alone."""
    newest = conv.weight[:, :, -1] if conv.weight.ndim == 5 else conv.weight
    values = torch.randn_like(newest) * gain / newest[0].numel() ** 0.5
    conv.weight.zero_()
    newest.copy_(values)
    conv.bias.zero_()


def _start_as_identity(time_conv: WanCausalConv3d) -> None:
    """Halving time averages the two newer frames; doubling it repeats the frame."""
    weight = time_conv.weight
    weight *= 0.1
    time_conv.bias.zero_()
    same = torch.eye(weight.shape[1])
    if weight.shape[0] == weight.shape[1]:
        weight[:, :, 1:, 0, 0] += 0.5 * same[:, :, None]
    else:
        weight[:, :, 2, 0, 0] += torch.cat([same, same])


def encode(vae: AutoencoderKLWan, clips: torch.Tensor) -> torch.Tensor:
    """Means of the posterior, (B, 16, (frames - 1) // 4 + 1, H / 8, W / 8), of clips (B, 3, frames, H, W) in [-1, 1]."""
    encoder = vae.encoder
    x = _causal(encoder.conv_in, clips)
    for layer in encoder.down_blocks:
        x = _resample(layer, x) if isinstance(layer, WanResample) else _residual(layer, x)
    x = _middle(encoder.mid_block, x)
    x = _causal(encoder.conv_out, _activated(encoder.norm_out, x))
    return _causal(vae.quant_conv, x)[:, :LATENT_CHANNELS]


def decode(vae: AutoencoderKLWan, latents: torch.Tensor) -> torch.Tensor:
    """Clips (B, 3, frames, H, W), not clamped, of raw latents (B, 16, latent frames, H / 8, W / 8)."""
    decoder = vae.decoder
    x = _causal(decoder.conv_in, _causal(vae.post_quant_conv, latents))
    x = _middle(decoder.mid_block, x)
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            x = _residual(resnet, x)
        for upsampler in block.upsamplers or ():
            x = _resample(upsampler, x)
    return _causal(decoder.conv_out, _activated(decoder.norm_out, x))


def decode_in_pairs(vae: AutoencoderKLWan, latents: torch.Tensor) -> torch.Tensor:
    """`decode`, two clips at a time: on a CPU what a layer reads of two is still in its cache, and for one torch takes a slower
    convolution."""
    return torch.cat([decode(vae, pair) for pair in latents.split(2)])


def _causal(conv: WanCausalConv3d, x: torch.Tensor) -> torch.Tensor:
    if conv.kernel_size == (3, 3, 3) and x.shape[2] == 1:
        # The two frames before the first are zeros, so only the newest tap of the kernel contributes.
        return F.conv2d(x[:, :, 0], conv.weight[:, :, -1], conv.bias, padding=1)[:, :, None]
    return conv(x)


def _activated(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    scale = torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-12).to(x.dtype)
    return F.silu(x * scale * norm.gamma.to(x.dtype))


def _residual(block: WanResidualBlock, x: torch.Tensor) -> torch.Tensor:
    h = _causal(block.conv1, _activated(block.norm1, x))
    h = _causal(block.conv2, _activated(block.norm2, h))
    return h + block.conv_shortcut(x)


def _middle(middle: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = middle.attentions[0](_residual(middle.resnets[0], x))
    return _residual(middle.resnets[1], x)


def _resample(layer: WanResample, x: torch.Tensor) -> torch.Tensor:
    if layer.mode == "upsample3d" and x.shape[2] > 1:
        x = torch.cat([x[:, :, :1], _doubled(layer, x[:, :, 1:])], dim=2)
    frames = x.transpose(1, 2).flatten(0, 1)
    if layer.mode.startswith("upsample"):
        frames = F.interpolate(frames, scale_factor=2.0, mode="nearest-exact")
        frames = layer.resample[1](frames)
    else:
        frames = layer.resample(frames)
    x = frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
    if layer.mode == "downsample3d" and x.shape[2] > 1:
        x = torch.cat([x[:, :, :1], layer.time_conv(x)], dim=2)
    return x


def _doubled(layer: WanResample, x: torch.Tensor) -> torch.Tensor:
    pairs = layer.time_conv(x).unflatten(1, (2, x.shape[1]))  # (B, 2, C, T, H, W)
    return pairs.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)

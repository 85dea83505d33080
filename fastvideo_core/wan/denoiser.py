"""Diffusers' `WanTransformer3DModel` as a denoiser: conditioning in, one transformer call, one velocity per branch out."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import torch
from torch import Tensor

from ..conditioning import Conditioning
from ..errors import ConditioningError, RequestError
from ..guidance import Branch, Prediction
from ..schedule import TIMESTEPS, Expert, Phase

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel


@dataclass(frozen=True)
class WanDenoiser:
    """One expert under one conditioning (already in the transformer's dtype and on its device)."""

    transformer: "WanTransformer3DModel"
    conditioning: Conditioning
    latent_shape: tuple[int, ...]

    @torch.no_grad()
    def predict(self, latents: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Prediction:
        """One call with batch = len(branches) * B. The latents stay float32; the network computes in its own dtype."""
        copies, condition = len(branches), self.conditioning
        dtype = condition.positive.dtype
        x = latents.to(dtype)
        if condition.image is not None:
            x = torch.cat([x, condition.image.expand(x.shape[0], -1, -1, -1, -1)], dim=1)
        velocity = self.transformer(
            hidden_states=torch.cat([x] * copies),
            timestep=torch.cat([self._timestep(latents, sigma)] * copies),
            encoder_hidden_states=torch.cat([self._rows(condition.text(b), latents) for b in branches]),
            encoder_hidden_states_image=self._image_tokens(latents, copies),
            return_dict=False,
        )[0]
        return Prediction(velocity.float().chunk(copies), [branches])

    def fits_batched(self) -> tuple[bool, str]:
        needed = activation_bytes(self.transformer, self.latent_shape, branches=2)
        free = free_bytes(self.conditioning.positive.device)
        words = f"both branches need about {needed / 2**30:.2f} GiB, {free / 2**30:.2f} GiB are free"
        return needed < free, words

    def _timestep(self, latents: Tensor, sigma: float) -> Tensor:
        timestep = sigma * TIMESTEPS
        if self.conditioning.first_frame is not None:
            return self.conditioning.first_frame.timesteps(timestep, latents)
        return torch.full((latents.shape[0],), timestep, device=latents.device)

    def _rows(self, rows: Tensor, latents: Tensor) -> Tensor:
        return rows.expand(latents.shape[0], -1, -1)

    def _image_tokens(self, latents: Tensor, copies: int) -> Tensor | None:
        tokens = self.conditioning.image_tokens
        return None if tokens is None else torch.cat([self._rows(tokens, latents)] * copies)


@dataclass(frozen=True)
class WanExperts:
    """One or two transformers under one conditioning. Only the expert at work is on `device`; the other one, and both
    afterwards, are on `offload_device`. A transformer with group offloading (diffusers' hooks) moves its own blocks."""

    transformers: Mapping[Expert, "WanTransformer3DModel"]
    conditioning: Conditioning
    latent_shape: tuple[int, ...]
    device: torch.device
    offload_device: torch.device

    def __post_init__(self) -> None:
        for expert, transformer in self.transformers.items():
            check_conditioning(transformer, self.conditioning, self.latent_shape, expert)

    @contextmanager
    def active(self, phase: Phase) -> Iterator[WanDenoiser]:
        if phase.expert not in self.transformers:
            raise RequestError(
                f"The schedule asks for the {phase.expert} expert; the model has {', '.join(self.transformers)}. A "
                "boundary is for models with a high_noise and a low_noise expert."
            )
        transformer = self.transformers[phase.expert]
        offloaded = is_group_offloaded(transformer)
        if not offloaded:
            transformer.to(self.device)
        try:
            conditioning = self.conditioning.to(self.device, compute_dtype(transformer))
            yield WanDenoiser(transformer, conditioning, self.latent_shape)
        finally:
            if not offloaded:
                transformer.to(self.offload_device)


def is_group_offloaded(transformer: "WanTransformer3DModel") -> bool:
    """Whether diffusers' group offloading owns the places of the weights."""
    from diffusers.hooks.group_offloading import _is_group_offload_enabled

    return bool(_is_group_offload_enabled(transformer))


def compute_dtype(transformer: "WanTransformer3DModel") -> torch.dtype:
    """What the network computes in. Diffusers keeps norms and modulation in float32; the patch embedding never is one."""
    dtype: torch.dtype = transformer.patch_embedding.weight.dtype
    return dtype


def check_conditioning(
    transformer: "WanTransformer3DModel", conditioning: Conditioning, latent_shape: tuple[int, ...], expert: str
) -> None:
    """Raises ConditioningError when latents, image, image tokens or text do not fit the network."""
    config = transformer.config
    channels = latent_shape[1]
    given = channels + (0 if conditioning.image is None else conditioning.image.shape[1])
    if config.in_channels != given:
        image = "no image condition" if conditioning.image is None else f"an image condition of {given - channels}"
        raise ConditioningError(
            f"The {expert} network reads {config.in_channels} channels and got {given}: {channels} of latents and {image}. "
            "36 channels are an image-to-video network, which needs a first image; 16 and 48 are text-to-video, which "
            "take none (48 takes a given first frame)."
        )
    if (config.image_dim is not None) != (conditioning.image_tokens is not None):
        wants = "reads CLIP image tokens" if config.image_dim is not None else "reads no CLIP image tokens"
        has = "got none" if conditioning.image_tokens is None else "got some"
        raise ConditioningError(f"The {expert} network {wants} and {has}. Wan 2.1 I2V and FLF2V read them, no other.")
    width = conditioning.positive.shape[2]
    if width != config.text_dim:
        raise ConditioningError(
            f"The text embedding is {width} wide and the {expert} network reads {config.text_dim}: the text encoder "
            "belongs to another model (Wan reads UMT5-XXL, 4096)."
        )


def activation_bytes(transformer: "WanTransformer3DModel", latent_shape: tuple[int, ...], branches: int) -> int:
    """Estimate of the peak memory of one call beside the weights.

    A block holds at its widest the residual stream, its float32 norm, and either q, k, v and the attention output or the
    feed-forward's inner layer: 8 * dim + ffn_dim values per token in the network's dtype (counted in diffusers'
    WanTransformerBlock; the output and the latents are small beside it).
    """
    config = transformer.config
    batch, _, frames, height, width = latent_shape
    tokens = batch * branches * frames * (height // 2) * (width // 2)
    dim = config.num_attention_heads * config.attention_head_dim
    return int(tokens * (8 * dim + config.ffn_dim) * compute_dtype(transformer).itemsize)


def free_bytes(device: torch.device) -> int:
    """Memory that a new allocation on `device` can have, what torch holds in reserve included."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    return int(psutil.virtual_memory().available)

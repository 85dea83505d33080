"""What a generation is told besides noise: text, image condition, image tokens, a given first frame.

All latents here are normalised, (latent - mean) / std, with time (T), height (H) and width (W) in latent units.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .errors import ConditioningError
from .guidance import Branch

TEXT_TOKENS = 512
"""Rows of a Wan text embedding. A contract: the image branch of cross-attention takes everything beyond the last 512 rows
for image tokens (diffusers, transformer_wan.py, WanAttnProcessor)."""


@dataclass(frozen=True)
class GivenFrame:
    """First frame of Wan2.2 TI2V-5B: clean latents, held during the whole generation, whose tokens have timestep 0
    (Wan2.2, wan/textimage2video.py). latents: (B, C, 1, H, W)."""

    latents: Tensor

    def to(self, latents: Tensor) -> "GivenFrame":
        """On the device and in the dtype of `latents`."""
        return GivenFrame(self.latents.to(latents))

    def impose(self, latents: Tensor) -> Tensor:
        """latents (B, C, T, H, W) with their first frame replaced. It must be on their device: see `to`."""
        return torch.cat([self.latents.expand(latents.shape[0], -1, -1, -1, -1), latents[:, :, 1:]], dim=2)

    def timesteps(self, timestep: float, latents: Tensor) -> Tensor:
        """Timestep per token, (B, T * H/2 * W/2): 0 in the given frame, `timestep` elsewhere."""
        batch, _, frames, height, width = latents.shape
        grid = torch.full((batch, frames, height // 2, width // 2), timestep, device=latents.device)
        grid[:, 0].zero_()
        return grid.flatten(1)


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """positive, negative: text embeddings (B, 512, D), zero-padded; negative may be None where no phase is guided.
    image: (B, 20, T, H, W), 4 mask channels and 16 latent channels, for the 36-channel networks.
    image_tokens: (B, 257 per image, 1280), CLIP's penultimate layer, for Wan2.1 I2V.
    first_frame: for TI2V-5B.
    """

    positive: Tensor
    negative: Tensor | None = None
    image: Tensor | None = None
    image_tokens: Tensor | None = None
    first_frame: GivenFrame | None = None

    def __post_init__(self) -> None:
        for branch, text in (("positive", self.positive), ("negative", self.negative)):
            if text is not None and (text.ndim != 3 or text.shape[1] != TEXT_TOKENS):
                raise ConditioningError(
                    f"The {branch} text embedding has shape {tuple(text.shape)}: Wan reads (batch, {TEXT_TOKENS}, dim). "
                    "Encode the prompt with fastvideo_core.TextEncoder, which pads it."
                )

    def text(self, branch: Branch) -> Tensor:
        if branch == "positive":
            return self.positive
        if self.negative is None:
            raise ConditioningError(
                "Guidance needs a negative text embedding and there is none. Encode the negative prompt (it may be "
                "empty), or set every guidance scale to 1."
            )
        return self.negative

    def to(self, device: torch.device, dtype: torch.dtype) -> "Conditioning":
        """Everything that the transformer reads, in its dtype and on its device; a given frame stays float32."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, dtype)

        return replace(
            self,
            positive=self.positive.to(device, dtype),
            negative=moved(self.negative),
            image=moved(self.image),
            image_tokens=moved(self.image_tokens),
        )


def image_condition(frames: Tensor, known: Tensor) -> Tensor:
    """The 20 extra channels of Wan's image-to-video networks (Wan2.1, wan/image2video.py).

    Args:
        frames: normalised VAE latents of the video whose unknown frames are zero (mid-grey), (B, 16, T, H, W).
        known: which video frames are given, (4 * (T - 1) + 1,) bool.

    Returns: (B, 20, T, H, W): 4 mask channels (each latent frame covers 4 video frames, the first one only one), 16 latent.
    """
    batch, _, latent_frames, height, width = frames.shape
    if known.shape != (4 * (latent_frames - 1) + 1,):
        raise ConditioningError(f"{known.numel()} known frames for {latent_frames} latent frames; it must be 4 * (T - 1) + 1.")
    mask = torch.cat([known[:1].repeat(4), known[1:]]).to(frames).view(latent_frames, 4).T
    return torch.cat([mask.view(1, 4, latent_frames, 1, 1).expand(batch, -1, -1, height, width), frames], dim=1)

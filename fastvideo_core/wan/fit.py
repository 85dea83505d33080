"""Whether a conditioning fits a network: asked once, before anything is computed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ..conditioning import Conditioning
from ..errors import ConditioningError

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel
    from diffusers.configuration_utils import FrozenDict


def check_conditioning(
    transformer: "WanTransformer3DModel", conditioning: Conditioning, latent_shape: tuple[int, ...], expert: str
) -> None:
    """Raises ConditioningError when latents, image, image tokens, first frame or text do not fit the network."""
    config = transformer.config
    _check_channels(config.in_channels, conditioning, latent_shape, expert)
    _check_image_tokens(config, conditioning.image_tokens, expert)
    for branch, text in (("positive", conditioning.positive), ("negative", conditioning.negative)):
        if text is not None and text.shape[2] != config.text_dim:
            raise ConditioningError(
                f"The {branch} text embedding is {text.shape[2]} wide and the {expert} network reads {config.text_dim}: the "
                "text encoder belongs to another model (Wan reads UMT5-XXL, 4096)."
            )


def _check_channels(in_channels: int, conditioning: Conditioning, latent_shape: tuple[int, ...], expert: str) -> None:
    channels = latent_shape[1]
    given = channels + (0 if conditioning.image is None else conditioning.image.shape[1])
    if in_channels != given:
        image = "no image condition" if conditioning.image is None else f"an image condition of {given - channels}"
        raise ConditioningError(
            f"The {expert} network reads {in_channels} channels and got {given}: {channels} of latents and {image}. "
            "36 channels are an image-to-video network, which needs a first image; 16 and 48 are text-to-video, which "
            "take none (48 takes a given first frame)."
        )
    if conditioning.image is not None and conditioning.image.shape[2:] != latent_shape[2:]:
        raise ConditioningError(
            f"The image condition is {_size(conditioning.image.shape)} and the latents are {_size(latent_shape)} (frames x "
            "height x width, in latent units). Make both for the same video size."
        )
    frame = conditioning.first_frame
    if frame is not None and frame.latents.shape[1:] != (channels, 1, *latent_shape[3:]):
        raise ConditioningError(
            f"The first frame has {frame.latents.shape[1]} channels of {_size(frame.latents.shape)} and the latents "
            f"{channels} of {_size(latent_shape)} (frames x height x width, in latent units). It must be one frame of the "
            "same channels and size: encode it with the VAE of this model, at the size of the video."
        )


def _check_image_tokens(config: "FrozenDict", tokens: Tensor | None, expert: str) -> None:
    if (config.image_dim is not None) != (tokens is not None):
        wants = "reads CLIP image tokens" if config.image_dim is not None else "reads no CLIP image tokens"
        has = "got none" if tokens is None else "got some"
        raise ConditioningError(f"The {expert} network {wants} and {has}. Wan 2.1 I2V and FLF2V read them, no other.")
    if tokens is None:
        return
    if tokens.shape[2] != config.image_dim:
        raise ConditioningError(
            f"The image tokens are {tokens.shape[2]} wide and the {expert} network reads {config.image_dim}: Wan 2.1 takes "
            "the penultimate layer of CLIP ViT-H, 1280 wide."
        )
    if config.pos_embed_seq_len not in (None, tokens.shape[1]):
        raise ConditioningError(
            f"The {expert} network reads {config.pos_embed_seq_len} image tokens, those of the first and the last image, "
            f"and got {tokens.shape[1]}. Give both images, encoded by CLIP ViT-H (257 tokens each)."
        )


def _size(shape: Sequence[int]) -> str:
    return " x ".join(str(size) for size in shape[2:])

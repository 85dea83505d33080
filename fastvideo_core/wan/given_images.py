"""The images that a video starts from and ends with: which of them a network reads, and what they must be."""

from typing import TYPE_CHECKING

from torch import Tensor

from ..checks import settled_pixels
from ..errors import ConditioningError
from ..image_motion import check_amplitude
from ..request import VideoSize

if TYPE_CHECKING:
    from diffusers.configuration_utils import FrozenDict


def check_which(config: "FrozenDict", image_channels: bool, first_frame: bool, first: bool, last: bool) -> None:
    """Whether a network reads the given images.

    Args:
        config: of the transformer.
        image_channels: whether it reads mask and image beside the noise.
        first_frame: whether it takes a first image as clean latents.
        first, last: whether they are given.
    """
    if not (image_channels or first_frame) and (first or last):
        raise ConditioningError(
            "An image was given to a text-to-video model, which cannot read it. Leave it out, or load an image-to-video "
            "model (I2V, FLF2V, TI2V-5B)."
        )
    if not first and (last or image_channels):
        raise ConditioningError("There is no first image, and an image-to-video model starts from one. Give first_image.")
    if config.pos_embed_seq_len is not None and not last:
        raise ConditioningError("FLF2V goes from a first to a last image and there is no last one. Give last_image.")
    if last and (first_frame or (config.image_dim is not None and config.pos_embed_seq_len is None)):
        raise ConditioningError(
            "A last image was given to a model that reads the first one only. Leave it out, or load Wan 2.1 FLF2V or "
            "Wan 2.2 I2V-A14B, which read both."
        )


def check_motion(amplitude: float, image_channels: bool, last: bool) -> None:
    """Whether a condition can be moved away from its image; see `amplified`.

    Args:
        image_channels: whether the network reads mask and image beside the noise. last: whether a last image is given.

    Raises:
        RequestError: the amplitude is not from 1 to 2. ConditioningError: there is nothing to move.
    """
    check_amplitude("image_motion", amplitude)
    if amplitude == 1:
        return
    if not image_channels:
        raise ConditioningError(
            f"image_motion is {amplitude:g}, and this model reads no image beside its noise: only image-to-video models (I2V) "
            "do. Set it to 1."
        )
    if last:
        raise ConditioningError(
            f"image_motion is {amplitude:g}, and a last image is given: only the frames of a first one are moved away from it. "
            "Set it to 1, or leave the last image out."
        )


def fitting(which: str, image: object, size: VideoSize) -> Tensor:
    """The image, cut off where it is out of 0..1 by rounding.

    Raises:
        ConditioningError: it is no (1, 3, height, width) float tensor of `size` with values in 0..1.
    """
    if not isinstance(image, Tensor) or not image.is_floating_point():
        given = image.dtype if isinstance(image, Tensor) else f"{image!r:.80}"
        raise ConditioningError(f"The {which} image is {given}; it must be a float tensor (1, 3, height, width) in 0..1.")
    if image.shape != (1, 3, size.height, size.width):
        raise ConditioningError(
            f"The {which} image has shape {tuple(image.shape)}; the video needs (1, 3, {size.height}, {size.width}). Crop and "
            "resize it to the size of the video."
        )
    pixels = settled_pixels(image)
    if pixels is None:
        low, high = (float(value) for value in image.aminmax())
        raise ConditioningError(
            f"The {which} image has values from {low:g} to {high:g}; they must lie in 0..1. Divide by 255 where it is in bytes, "
            "or clamp(0, 1) what a resize made overshoot."
        )
    return pixels

"""What core's own nodes make of a size and a start image, for the network at hand."""

from typing import Any

from fastvideo_core import RequestError

from .facts import WanFacts

Started = tuple[Any, Any, dict[str, Any]]
"""Positive and negative CONDITIONING, and the LATENT."""


def started(
    facts: WanFacts, texts: tuple[Any, Any], vae: Any, size: tuple[int, int, int], image: Any = None, clip_vision: Any = None
) -> Started:
    """As WanImageToVideo and Wan22ImageToVideoLatent make it, for one video.

    Args:
        texts: positive and negative CONDITIONING.
        size: width, height and frames.
        image: IMAGE of the frames that the video begins with (N, H, W, C), scaled and cut to the size.
        clip_vision: what encodes it for Wan 2.1.

    Raises:
        RequestError: core's nodes would make another size of it, or a CLIP vision model without an image.
    """
    from comfy_extras.nodes_wan import Wan22ImageToVideoLatent, WanImageToVideo

    _check(size, 32 if facts.latent_channels == 48 else 16)
    if facts.latent_channels == 48:
        return *texts, Wan22ImageToVideoLatent.execute(vae, *size, 1, start_image=image).args[0]
    if clip_vision is not None and image is None:
        raise RequestError("clip_vision is connected and there is no start image to see. Connect start_images, or neither.")
    seen = None if clip_vision is None else clip_vision.encode_image(image[:1], crop=True)
    given = {"start_image": image, "clip_vision_output": seen}
    made: Started = WanImageToVideo.execute(*texts, vae, *size, 1, **given).args
    return made


def _check(size: tuple[int, int, int], pixels: int) -> None:
    width, height, frames = size
    if width % pixels or height % pixels or (frames - 1) % 4:
        raise RequestError(
            f"A video of {width} x {height} pixels and {frames} frames was asked for: this model makes multiples of {pixels} "
            "pixels, and 1 more than a multiple of 4 frames, such as 81."
        )

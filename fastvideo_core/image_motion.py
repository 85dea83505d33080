"""More motion from an image-to-video network, by the image condition that it reads, without training or more steps."""

import torch
from torch import Tensor

from .checks import number
from .errors import RequestError

AMPLITUDE = "it is how much more the unknown frames differ from the given one, 1 (nothing changes) to 2."
LARGEST = 6.0
"""Of a latent, as PainterI2V has it."""


def amplified(frames: Tensor, amplitude: float) -> Tensor:
    """PainterI2V's motion amplitude (princepainter/ComfyUI-PainterI2V, nodes.py): the unknown frames' latents lie farther from
    the first frame's, each frame's mean difference, which is brightness, left as it is.

    Args:
        frames: the VAE's latents of the first frame and then of mid-grey, as it encodes them, not normalised: (B, 16, T, H, W).

    Returns: the same shape; `frames` themselves for an amplitude of 1.

    Raises:
        RequestError: the amplitude is not from 1 to 2.
    """
    check_amplitude("amplitude", amplitude)
    if amplitude == 1:
        return frames
    first = frames[:, :, :1]
    differences = frames[:, :, 1:] - first
    means = differences.mean((1, 3, 4), keepdim=True)
    unknown = (first + (differences - means) * amplitude + means).clamp(-LARGEST, LARGEST)
    return torch.cat([first, unknown], dim=2)


def check_amplitude(name: str, amplitude: float) -> None:
    """name: what it is called where it was asked for. Raises RequestError as `amplified`."""
    if not 1 <= number(name, amplitude, AMPLITUDE) <= 2:
        raise RequestError(f"{name} is {amplitude}: {AMPLITUDE}")

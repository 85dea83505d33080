"""PSNR and SSIM of two videos, frame by frame, in float64."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from ..checks import number, of_kind, settled_pixels
from ..errors import RequestError

DATA_RANGE = "it is the largest value that a pixel can have, 1 for 0..1."
WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03
"""Of Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", section III-C."""


def check_videos(a: Tensor, b: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    """Both, cut off where they are out of 0..data_range by rounding.

    Raises:
        RequestError: they are not (T, 3, H, W) float tensors of one shape with values in 0..data_range.
    """
    if not 0 < number("data_range", data_range, DATA_RANGE) <= 2**32:
        raise RequestError(f"data_range is {data_range}: {DATA_RANGE}")
    for name, video in (("first", a), ("second", b)):
        of_kind(f"The {name} video", video, Tensor, "give a tensor (frames, 3, height, width).")
    if a.ndim != 4 or a.shape[1] != 3 or a.shape != b.shape or 0 in a.shape:
        raise RequestError(
            f"The videos have the shapes {tuple(a.shape)} and {tuple(b.shape)}: both must be (frames, 3, height, width) "
            "and of one size."
        )
    return _in_range("first", a, data_range), _in_range("second", b, data_range)


def _in_range(name: str, video: Tensor, data_range: float) -> Tensor:
    if not video.is_floating_point():
        raise RequestError(f"The {name} video is {video.dtype}: give float frames in 0..data_range.")
    settled = settled_pixels(video, data_range)
    if settled is None:
        raise RequestError(
            f"The {name} video has values from {float(video.min()):g} to {float(video.max()):g}, outside of 0..{data_range:g}: "
            "state its data range, or clamp it."
        )
    return settled


def psnr(a: Tensor, b: Tensor, data_range: float) -> Tensor:
    """Peak signal-to-noise ratio, 10 * log10(data_range**2 / mean squared error), infinite for equal frames.

    Args:
        a, b: (T, 3, H, W) in 0..data_range.

    Returns: dB per frame, (T,) float64.
    """
    a, b = check_videos(a, b, data_range)
    errors = torch.stack([(x.double() - y.double()).square().mean() for x, y in zip(a, b, strict=True)])
    return 10 * torch.log10(data_range**2 / errors)


def ssim(a: Tensor, b: Tensor, data_range: float) -> Tensor:
    """Structural similarity under a Gaussian window of 11 x 11 pixels, sigma 1.5, mean over the window positions that lie
    inside the frame and over the channels (Wang et al. 2004). The same numbers as scikit-image's structural_similarity
    with gaussian_weights=True, sigma=1.5, use_sample_covariance=False.

    Args:
        a, b: (T, 3, H, W) in 0..data_range, H and W at least 11.

    Returns: similarity per frame, 1 for equal ones, (T,) float64.

    Raises:
        RequestError: the videos are of different shapes, out of range, or smaller than the window.
    """
    a, b = check_videos(a, b, data_range)
    if min(a.shape[2:]) < WINDOW:
        raise RequestError(
            f"Frames of {a.shape[3]} x {a.shape[2]} pixels are smaller than SSIM's window of {WINDOW} x {WINDOW}; "
            "compare larger frames, or use PSNR."
        )
    return torch.stack([_frame_ssim(x.double(), y.double(), data_range) for x, y in zip(a, b, strict=True)])


def _frame_ssim(x: Tensor, y: Tensor, data_range: float) -> Tensor:
    mean_x, mean_y, xx, yy, xy = _windowed(torch.stack([x, y, x * x, y * y, x * y]))
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    variances, covariance = xx + yy - squares, xy - product
    similarity: Tensor = (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))
    return similarity.mean()


def _windowed(maps: Tensor) -> Tensor:
    """Gaussian means of (N, 3, H, W) at every position of the window, (N, 3, H - 10, W - 10)."""
    offsets = torch.arange(WINDOW, dtype=maps.dtype, device=maps.device) - WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * SIGMA**2))
    weights = weights / weights.sum()
    planes = maps.flatten(0, 1).unsqueeze(1)
    rows = conv2d(planes, weights.view(1, 1, 1, -1))
    means = conv2d(rows, weights.view(1, 1, -1, 1))
    return means.view(*maps.shape[:2], *means.shape[2:])

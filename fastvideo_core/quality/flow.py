"""How far the picture moves from one frame to the next: optical flow after Lucas & Kanade 1981 ("An iterative image registration
technique"), coarse to fine as in Bouguet 2001 ("Pyramidal implementation of the Lucas Kanade feature tracker"), on a grid of
overlapping windows, in float32 on the frames' device.

Not phase correlation: a flat shape on a flat ground, cut by a window, leaves it the window's own standing edge, while here ground
without texture agrees with any motion and takes no part.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, grid_sample, interpolate, pad

CELL = 4
"""Pixels between two windows."""
BINOMIAL = (6 / 16, 4 / 16, 1 / 16)
"""Weights of the middle, the two beside it and the two after those: of the cells of a window, which has 20 pixels in each
direction, and of the pixels, which are smoothed before they are compared."""
WORKING = 256
"""Frames whose shorter side is longer are halved until it is not."""
COARSEST = 16
"""Pixels of the shorter side at the top of the pyramid, at least."""
ROUNDS = 3
"""Of estimating and warping, at each size."""
VISIBLE = 1e-4
"""A window counts where the smaller eigenvalue of its gradients' covariance, of pixels in 0..1, is as large (the criterion of
Shi & Tomasi 1994, "Good features to track"): less is flat, noise, or a straight edge, whose motion along itself nobody sees."""
STEADY = 1e-6
"""Added to the covariance, so that flat windows stay where they are."""
CHUNK = 2**22
"""Values of a chunk of frames, which bounds the memory."""


def flow(video: Tensor, data_range: float = 1.0) -> Iterator[tuple[Tensor, Tensor]]:
    """Of all pairs of neighbouring frames, in order, some at a time.

    Args:
        video: (T, 3, H, W) in 0..data_range, H and W at least 16.

    Returns: motion (N, 2, h, w) in pixels of the video, x and y, and which windows count, (N, 1, h, w) bool.
    """
    count = max(1, CHUNK // video[0].numel())
    for start in range(0, len(video) - 1, count):
        yield _of_chunk(video[start : start + count + 1].float() / data_range)


def _of_chunk(frames: Tensor) -> tuple[Tensor, Tensor]:
    scale = 1
    while min(frames.shape[2:]) > WORKING:
        frames, scale = avg_pool2d(frames, 2), 2 * scale
    pyramid = [_smoothed(_smoothed(frames))]
    while min(pyramid[-1].shape[2:]) >= 2 * COARSEST:
        pyramid.append(avg_pool2d(_smoothed(pyramid[-1]), 2))
    motion = frames.new_zeros(len(frames) - 1, 2, 1, 1)
    for level in reversed(pyramid):
        motion, visible = _refined(level[:-1], level[1:], 2 * motion)
    return scale * motion, visible


def _refined(before: Tensor, after: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """motion: (N, 2, h, w), of any grid, a first guess in pixels of these frames (N, 3, H, W)."""
    size = (before.shape[2] // CELL, before.shape[3] // CELL)
    motion = interpolate(motion, size, mode="bilinear", align_corners=False)
    along_x, along_y = _gradients(before)
    xx, yy, xy = (_window_means(product, size) for product in (along_x * along_x, along_y * along_y, along_x * along_y))
    xx, yy = xx + STEADY, yy + STEADY
    determinant = xx * yy - xy * xy
    for _ in range(ROUNDS):
        there, inside = _warped(after, motion)
        error = (before - there) * inside
        x, y = _window_means(along_x * error, size), _window_means(along_y * error, size)
        motion = motion + torch.cat([yy * x - xy * y, xx * y - xy * x], dim=1) / determinant
    smaller = (xx + yy - ((xx - yy).square() + 4 * xy.square()).sqrt()) / 2
    return motion, smaller >= VISIBLE


def _gradients(frames: Tensor) -> tuple[Tensor, Tensor]:
    wide = pad(frames, (1, 1, 1, 1), mode="replicate")
    return (wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2]) / 2, (wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]) / 2


def _window_means(values: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, 3, H, W) to (N, 1, *size): over the channels and the window around each cell; nothing beyond the frame."""
    return _blurred(pad(adaptive_avg_pool2d(values.mean(1, keepdim=True), size), (2, 2, 2, 2)))


def _warped(frames: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """What stands at x + motion(x), and whether that is in the frame, (N, 1, H, W)."""
    height, width = frames.shape[2:]
    shift = interpolate(motion, (height, width), mode="bilinear", align_corners=False)
    x = torch.arange(width, dtype=frames.dtype, device=frames.device) + shift[:, 0]
    y = torch.arange(height, dtype=frames.dtype, device=frames.device)[:, None] + shift[:, 1]
    places = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    inside = (places.abs() <= 1).all(-1).unsqueeze(1)
    return grid_sample(frames, places, mode="bilinear", padding_mode="border", align_corners=False), inside


def _smoothed(frames: Tensor) -> Tensor:
    return _blurred(pad(frames, (2, 2, 2, 2), mode="replicate"))


def _blurred(values: Tensor) -> Tensor:
    """(..., H, W) to (..., H - 4, W - 4)."""
    return _blurred_down(_blurred_down(values).transpose(-1, -2)).transpose(-1, -2)


def _blurred_down(values: Tensor) -> Tensor:
    near, far = values[..., 1:-3, :] + values[..., 3:-1, :], values[..., :-4, :] + values[..., 4:, :]
    middle, beside, outer = BINOMIAL
    return (middle * values[..., 2:-2, :]).add_(near, alpha=beside).add_(far, alpha=outer)

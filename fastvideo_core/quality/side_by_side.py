"""Two videos in one, for the eye."""

import torch
from torch import Tensor


def side_by_side(a: Tensor, b: Tensor) -> Tensor:
    """Both next to each other, (T, 3, H, 2 * W). a, b: (T, 3, H, W)."""
    return torch.cat([a, b], dim=3)


def difference(a: Tensor, b: Tensor, factor: float, data_range: float = 1.0) -> Tensor:
    """|a - b| * factor, cut off at the data range; black where they are equal. a, b: (T, 3, H, W)."""
    return ((a - b).abs() * factor).clamp(max=data_range)

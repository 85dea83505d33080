"""LPIPS, where its package is installed."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FastVideoError, LoadError, RequestError
from .metrics import check_videos


@torch.no_grad()
def lpips(a: Tensor, b: Tensor, data_range: float) -> Tensor:
    """Learned perceptual distance (Zhang et al. 2018, arXiv 1801.03924), version 0.1 on AlexNet: 0 for equal frames.

    Args:
        a, b: (T, 3, H, W) in 0..data_range.

    Returns: distance per frame, (T,) float64.

    Raises:
        RequestError: the package is not installed, or the videos do not fit each other.
        LoadError: AlexNet's weights are not on this machine.
    """
    a, b = check_videos(a, b, data_range)
    network = _network().to(a.device)
    pairs = zip(a, b, strict=True)
    distances = [network(_scaled(x, data_range), _scaled(y, data_range)).flatten()[0] for x, y in pairs]
    return torch.stack(distances).double()


def _scaled(frame: Tensor, data_range: float) -> Tensor:
    """A batch of one in -1..1, as the network reads it."""
    return (frame.float() * (2 / data_range) - 1).unsqueeze(0)


def why_no_lpips() -> FastVideoError | None:
    """What keeps it from running on this machine."""
    for package in ("lpips", "torchvision"):
        if find_spec(package) is None:
            return RequestError(f"LPIPS needs the package {package}, which is not installed: pip install {package}")
    url: str = import_module("torchvision.models").AlexNet_Weights.IMAGENET1K_V1.url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not file.is_file():  # the package would download it, and a run never does
        return LoadError(f"LPIPS needs AlexNet's weights at {file}, and they are not there. Download them from {url}")
    return None


def _network() -> Any:
    missing = why_no_lpips()
    if missing is not None:
        raise missing
    return import_module("lpips").LPIPS(net="alex", verbose=False).eval()

"""How alike two videos are, as numbers: a video is (T, 3, H, W), float, from 0 to a stated data range."""

from .account import account_json, frame_panels, table
from .comparison import Comparison, FrameQuality, compare
from .metrics import psnr, ssim
from .perceptual import lpips, why_no_lpips
from .plot import Curve, Panel, plot
from .side_by_side import difference, side_by_side

__all__ = [
    "Comparison", "Curve", "FrameQuality", "Panel", "account_json", "compare", "difference", "frame_panels", "lpips", "plot",
    "psnr", "side_by_side", "ssim", "table", "why_no_lpips",
]  # fmt: skip

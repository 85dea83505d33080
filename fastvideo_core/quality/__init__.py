"""How alike two videos are, and how each of them moves, as numbers: a video is (T, 3, H, W), float, from 0 to a stated data
range."""

from .account import account_json, frame_panels, table
from .comparison import Comparison, FrameQuality, compare
from .metrics import psnr, ssim
from .motion import Motion, MotionComparison, PairMotion, motion
from .perceptual import lpips, why_no_lpips
from .plot import Curve, Panel, plot
from .side_by_side import difference, side_by_side

__all__ = [
    "Comparison", "Curve", "FrameQuality", "Motion", "MotionComparison", "PairMotion", "Panel", "account_json", "compare",
    "difference", "frame_panels", "lpips", "motion", "plot", "psnr", "side_by_side", "ssim", "table", "why_no_lpips",
]  # fmt: skip

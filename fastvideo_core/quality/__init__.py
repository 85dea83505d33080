"""How alike two videos are, and how each of them moves, as numbers: a video is (T, 3, H, W), float, from 0 to a stated data
range."""

from .account import account_json, table
from .comparison import Comparison, FrameQuality, compare
from .metrics import psnr, ssim
from .motion import Motion, MotionComparison, PairMotion, motion
from .perceptual import lpips, why_no_lpips

__all__ = [
    "Comparison", "FrameQuality", "Motion", "MotionComparison", "PairMotion", "account_json", "compare", "lpips", "motion",
    "psnr", "ssim", "table", "why_no_lpips",
]  # fmt: skip

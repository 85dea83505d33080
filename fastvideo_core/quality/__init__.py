"""How alike two videos are, as numbers: a video is (T, 3, H, W), float, from 0 to a stated data range."""

from .comparison import Comparison, FrameQuality, compare
from .metrics import psnr, ssim
from .perceptual import lpips

__all__ = ["Comparison", "FrameQuality", "compare", "lpips", "psnr", "ssim"]

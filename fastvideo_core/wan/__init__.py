"""Everything that knows Wan: variants, loading, the denoiser over diffusers' network, the VAE, the seam."""

from .blocks import BlockStack, installed
from .compiled import CompileAccount, CompileSettings
from .denoiser import WanDenoiser, WanExperts
from .variants import VARIANTS, WanVariant, recognise, variant

__all__ = [
    "VARIANTS", "BlockStack", "CompileAccount", "CompileSettings", "WanDenoiser", "WanExperts", "WanVariant", "installed",
    "recognise", "variant",
]  # fmt: skip

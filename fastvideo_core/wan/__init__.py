"""Everything that knows Wan: variants, loading, the denoiser over diffusers' network, the VAE, the seam."""

from .blocks import BlockStack, installed
from .compiled import CompileAccount, CompileSettings, compiled
from .denoiser import WanDenoiser, WanExperts
from .sharded import Shard, UlyssesSparse
from .variants import VARIANTS, WanVariant, recognise, variant

__all__ = [
    "VARIANTS", "BlockStack", "CompileAccount", "CompileSettings", "Shard", "UlyssesSparse", "WanDenoiser", "WanExperts",
    "WanVariant", "compiled", "installed", "recognise", "variant",
]  # fmt: skip

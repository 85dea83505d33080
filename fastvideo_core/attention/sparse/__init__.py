"""Sparse self-attention for video: each tile of tokens attends a part of the others. Cross-attention is never sparse."""

from .flex import FlexKernel
from .sla import SLASettings
from .tiles import TileGrid
from .variant import Attended, Inputs, SparseAttention, SparseSettings
from .vsa import VSASettings

__all__ = [
    "Attended",
    "FlexKernel",
    "Inputs",
    "SLASettings",
    "SparseAttention",
    "SparseSettings",
    "TileGrid",
    "VSASettings",
]

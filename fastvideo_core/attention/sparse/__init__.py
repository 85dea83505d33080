"""Sparse self-attention for video: each tile of tokens attends a part of the others. Cross-attention is never sparse."""

from .bsa import BSASettings
from .experts import SparseExperts
from .flex import FlexKernel
from .gather import GatherKernel
from .kernel import Kernel, KernelName
from .measure import OutputError, measured
from .nabla import NABLASettings
from .processor import sparse_attention
from .schedule import SparseSchedule
from .select import kernel_of, prepare_kernel
from .session import SparseSession, as_it_is
from .sla import SLASettings
from .sta import STASettings
from .tiles import TileGrid
from .variant import Attended, Inputs, SparseAttention, SparseSettings
from .vsa import VSASettings

__all__ = [
    "Attended",
    "BSASettings",
    "FlexKernel",
    "GatherKernel",
    "Inputs",
    "Kernel",
    "KernelName",
    "NABLASettings",
    "OutputError",
    "SLASettings",
    "STASettings",
    "SparseAttention",
    "SparseExperts",
    "SparseSchedule",
    "SparseSession",
    "SparseSettings",
    "TileGrid",
    "VSASettings",
    "as_it_is",
    "kernel_of",
    "measured",
    "prepare_kernel",
    "sparse_attention",
]

"""The table of dense attention backends: what each needs, what it takes, and how to get its one function."""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch.nn.attention import SDPBackend

from ..errors import RequestError
from . import dense, dense_packages
from .dense import Attend
from .requirements import (
    Capability,
    Compiler,
    Device,
    Dtypes,
    HeadDim,
    Masks,
    On,
    Package,
    Requirement,
    Situation,
    Torch,
    unmet,
)  # fmt: skip

HALF = Dtypes((torch.float16, torch.bfloat16))
FLOATS = Dtypes((torch.float16, torch.bfloat16, torch.float32))
ANY_MASK = Masks(("padding", "dense", "bias"))
AMPERE, HOPPER, BLACKWELL = (8, 0), (9, 0), (10, 0)


@dataclass(frozen=True)
class Backend:
    """One row. load: imports what it needs and gives the function. error: relative error that a low-precision kernel may make
    (see `probe`), None for one that only rounds; `auto` never picks a low-precision one."""

    name: str
    title: str
    requirements: tuple[Requirement, ...]
    load: Callable[[], Attend]
    error: float | None = None

    def unmet(self, situation: Situation) -> tuple[str, ...]:
        """Every reason why it cannot run there."""
        return unmet(self.requirements, situation)


_ROWS = (
    Backend("sdpa", "torch SDPA", (ANY_MASK,), lambda: dense.sdpa),
    Backend(
        "sdpa_flash", "torch SDPA, flash kernel",
        (Device(("cuda", "cpu")), FLOATS, On("cpu", (ANY_MASK,)),
         On("cuda", (Capability(AMPERE), HALF, HeadDim(most=256), Masks()))),
        dense.sdpa_by(SDPBackend.FLASH_ATTENTION),
    ),
    Backend(
        "sdpa_cudnn", "torch SDPA, cuDNN kernel",
        (Torch("2.5"), Capability(AMPERE), HALF, HeadDim(most=128, multiple=8), ANY_MASK),
        dense.sdpa_by(SDPBackend.CUDNN_ATTENTION),
    ),
    Backend(
        "sdpa_efficient", "torch SDPA, memory-efficient kernel", (Device(("cuda",)), FLOATS, ANY_MASK),
        dense.sdpa_by(SDPBackend.EFFICIENT_ATTENTION),
    ),
    Backend("sdpa_math", "torch SDPA, plain mathematics", (ANY_MASK,), dense.sdpa_by(SDPBackend.MATH)),
    Backend(
        "flash_attn_2", "FlashAttention 2",
        (Package("flash-attn", "flash_attn", "2.6.3"), Capability(AMPERE), HALF, HeadDim(most=256, multiple=8),
         Masks(("padding",))),
        dense_packages.load_flash_attn_2,
    ),
    Backend(
        "flash_attn_3", "FlashAttention 3",
        (Package("flash-attn-3", "flash_attn_interface"), Capability(HOPPER, below=BLACKWELL), HALF,
         HeadDim(most=256, multiple=8), Masks(("padding",))),
        dense_packages.load_flash_attn_3,
    ),
    Backend(  # its README: INT8 scores, FP16 values
        "sageattention_1", "SageAttention 1",
        (Package("sageattention", "sageattention", "1.0", below="2"), Package("triton", "triton"), Capability(AMPERE), HALF,
         HeadDim(exactly=(64, 96, 128)), Masks()),
        dense_packages.load_sageattention, error=0.05,
    ),
    Backend(
        "sageattention_2", "SageAttention 2",
        (Package("sageattention", "sageattention", "2.0", below="3"), Capability(AMPERE), HALF, HeadDim(most=128), Masks()),
        dense_packages.load_sageattention, error=0.1,
    ),
    Backend(
        "sageattention_3", "SageAttention 3",
        (Package("sageattn3", "sageattn3"), Capability(BLACKWELL), HALF, HeadDim(exactly=(64, 128)), Masks()),
        dense_packages.load_sageattention_3, error=0.25,
    ),
    Backend(
        "xformers", "xFormers",
        (Package("xformers", "xformers", "0.0.29"), Capability((7, 0)), FLOATS, HeadDim(most=256, multiple=8), ANY_MASK),
        dense_packages.load_xformers,
    ),
    Backend(
        "flex", "FlexAttention, compiled",
        (Torch("2.6"), Device(("cuda", "cpu")), FLOATS, Compiler(), On("cuda", (Capability(AMPERE),)), ANY_MASK),
        dense.load_flex,
    ),
)  # fmt: skip

BACKENDS: MappingProxyType[str, Backend] = MappingProxyType({row.name: row for row in _ROWS})

# What "auto" tries, in this order. The kernels made for one generation of GPUs come first; torch's own choice runs anywhere.
AUTO_ORDER = ("flash_attn_3", "flash_attn_2", "sdpa")


def backend(name: str) -> Backend:
    """The row of that name."""
    if name not in BACKENDS:
        raise RequestError(f"The attention backend {name!r} is unknown. Known: auto, {', '.join(BACKENDS)}.")
    return BACKENDS[name]

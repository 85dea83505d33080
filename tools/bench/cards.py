"""GPUs by their maker's data sheets.

Rates are those of dense products, without the structured sparsity that data sheets double them by, summed up in float32 (on
GeForce cards half of what is summed up in float16). PCIe: one direction of 16 lanes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Card:
    """memory: bytes; bf16, fp8: FLOP per second; bandwidth: of its memory, pcie: of its link, bytes per second."""

    name: str
    memory: int
    bf16: float
    fp8: float
    bandwidth: float
    pcie: float
    source: str


_HOPPER = "with sparsity 1,979 TFLOPS in BFLOAT16 and 3,958 in FP8; PCIe Gen5 128 GB/s in both directions"
CARDS: Mapping[str, Card] = MappingProxyType({card.name: card for card in (
    Card(
        name="H100 SXM", memory=80 * GIB, bf16=989.4e12, fp8=1978.9e12, bandwidth=3.35e12, pcie=64e9,
        source=f"NVIDIA H100 Tensor Core GPU, data sheet: {_HOPPER}; 80 GB, 3.35 TB/s",
    ),
    Card(
        name="H200 SXM", memory=141 * 10**9, bf16=989.4e12, fp8=1978.9e12, bandwidth=4.8e12, pcie=64e9,
        source=f"NVIDIA H200 Tensor Core GPU, data sheet: {_HOPPER}; 141 GB, 4.8 TB/s",
    ),
    Card(
        name="RTX 4090", memory=24 * GIB, bf16=165.2e12, fp8=330.3e12, bandwidth=1.008e12, pcie=32e9,
        source="NVIDIA Ada GPU Architecture, appendix A: 165.2 TFLOPS in BF16 and 330.3 in FP8 with FP32 accumulate; 24 GB, "
        "1008 GB/s; PCIe Gen 4",
    ),
    Card(
        name="RTX 5090", memory=32 * GIB, bf16=209.5e12, fp8=419e12, bandwidth=1.792e12, pcie=64e9,
        source="NVIDIA RTX Blackwell GPU Architecture, appendix A: 209.5 TFLOPS in BF16 and 419 in FP8 with FP32 accumulate; "
        "32 GB, 1792 GB/s; PCIe Gen 5",
    ),
)})  # fmt: skip

"""The rate at which this machine multiplies matrices, as the measure of what else it does."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from .clock import wait

SHAPES: Mapping[str, tuple[tuple[int, int, int], ...]] = MappingProxyType(
    {
        "cpu": ((1024, 1024, 1024), (2560, 512, 2048), (2048, 2048, 2048)),
        "cuda": ((4096, 4096, 4096), (8192, 8192, 8192), (65536, 1536, 8960)),
    }
)
"""(rows, inner, columns) of products that are large on such a device."""
LEAST_SECONDS = 0.2


@dataclass(frozen=True, order=True)
class Peak:
    """rate: FLOP per second; what: the product that reached it."""

    rate: float
    what: str


def matmul_peak(device: torch.device, dtype: torch.dtype) -> Peak:
    """The fastest of a few large products."""
    return max(_peaks(device, dtype, rows, inner, columns) for rows, inner, columns in SHAPES[device.type])


def _peaks(device: torch.device, dtype: torch.dtype, rows: int, inner: int, columns: int) -> Peak:
    x, weight = (torch.randn(shape, device=device, dtype=dtype) for shape in ((rows, inner), (columns, inner)))
    products = {"torch.matmul": lambda: x @ weight.T, **_onednn(x, weight)}
    size = f"{rows} x {inner} x {columns}"
    return max(Peak(2 * rows * inner * columns / _seconds(run, device), f"{name}, {size}") for name, run in products.items())


def _onednn(x: Tensor, weight: Tensor) -> dict[str, Callable[[], Tensor]]:
    """On the CPU torch takes MKL for float32, which on AMD's is slower than oneDNN."""
    if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return {}
    return {"oneDNN linear": lambda: torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")}


@torch.no_grad()
def _seconds(run: Callable[[], Tensor], device: torch.device) -> float:
    """Of one run: the shortest of several, each long enough for the clock."""
    run()
    times, count = [], 1
    wait(device)
    while sum(times) * count < LEAST_SECONDS or len(times) < 3:
        started = time.perf_counter()
        for _ in range(count):
            run()
        wait(device)
        times.append((time.perf_counter() - started) / count)
        if times[-1] * count < LEAST_SECONDS / 10:
            times, count = [], 2 * count
    return min(times)

"""The probe: kernels that are wrong in the ways that kernels are, and right ones at every dtype."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastvideo_core.attention import BACKENDS, MaskKind, Situation, budget, exact_attention, faults, relative_error
from fastvideo_core.attention.dense import sdpa

Kernel = Callable[..., Tensor]


def zeros(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    return torch.zeros_like(q)


def one_nan(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    out = sdpa(q, k, v, mask, scale).clone()
    out[-1, -1, -1, -1] = torch.nan
    return out


def reads_heads_first(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Takes (B, L, H, D) for (B, H, L, D): attention among the heads of a token."""
    return (
        torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)
        if q.shape == k.shape
        else sdpa(q, k, v, mask, scale)
    )


def gives_heads_first(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    return sdpa(q, k, v, mask, scale).transpose(1, 2)


def drops_the_scale(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    return sdpa(q, k, v, mask)


def drops_the_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    return sdpa(q, k, v, None, scale)


def gives_float32(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    return sdpa(q.float(), k.float(), v.float(), mask, scale)


def centres_the_keys(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Right, and whoever keeps the keys for another call finds them changed."""
    k -= k.mean(dim=1, keepdim=True)
    return sdpa(q, k, v, mask, scale)


def raises(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore lines")


def forgets_the_last_keys(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """A kernel that reads whole tiles of 64 keys."""
    whole = k.shape[1] // 64 * 64
    return sdpa(q, k[:, :whole], v[:, :whole], None if mask is None else mask[..., :whole], scale)


@pytest.mark.parametrize(
    ("kernel", "kind", "said"),
    [
        (zeros, "none", "its relative error against float64 is 1"),
        (one_nan, "none", "1 of 6912 values that it gives are not finite"),
        (reads_heads_first, "none", "its relative error"),
        (gives_heads_first, "none", r"it gives the shape \(2, 3, 72, 16\) where \(2, 72, 3, 16\)"),
        (drops_the_scale, "none", "its relative error"),
        (drops_the_mask, "padding", "its relative error"),
        (drops_the_mask, "dense", "its relative error"),
        (drops_the_mask, "bias", "its relative error"),
        (centres_the_keys, "none", "^it changes what it is given$"),
        (gives_float32, "none", "it gives float32 for bfloat16"),
        (raises, "none", "it raised RuntimeError in a trial: CUDA error: no kernel image .* device$"),
        (forgets_the_last_keys, "none", "its relative error"),
    ],
)
def test_wrong_kernels_are_found(kernel: Kernel, kind: MaskKind, said: str) -> None:
    found = faults(kernel, Situation.on("cpu", torch.bfloat16, 16, kind))
    assert found
    assert any(re.search(said, fault) for fault in found), found


@pytest.mark.parametrize("error", [row.error for row in BACKENDS.values() if row.error])
@pytest.mark.parametrize("kernel", [zeros, reads_heads_first, drops_the_scale, forgets_the_last_keys])
def test_the_wider_budgets_of_low_precision_kernels_find_wrong_ones_too(kernel: Kernel, error: float) -> None:
    assert faults(kernel, Situation.on("cpu", torch.bfloat16, 128), error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [16, 64, 128])
def test_rounding_of_a_right_kernel_stays_within_a_budget_that_is_not_twenty_times_wider(
    dtype: torch.dtype, head_dim: int
) -> None:
    """The budget is no wide net: a tenth of it would already refuse a right kernel."""
    situation = Situation.on("cpu", dtype, head_dim)
    q, k, v = (torch.randn(2, 90, 3, head_dim, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(3))
    error = relative_error(sdpa(q, k, v), exact_attention(q, k, v))
    assert budget(situation) / 20 < error < budget(situation)
    assert faults(sdpa, situation) == ()

"""Dense attention of optional packages: each is imported when its backend is first used, and only then."""

from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .dense import Attend, broadcast_mask


class Packed(NamedTuple):
    """Keys and values without padding. k, v: (B * Lk, H, D), of which the rows from `starts[-1]` on are never read; starts:
    (B + 1,) int32, where each sequence begins."""

    k: Tensor
    v: Tensor
    starts: Tensor


def load_flash_attn_2() -> Attend:
    """FlashAttention-2 (github.com/Dao-AILab/flash-attention)."""
    return _flash(import_module("flash_attn"))


def load_flash_attn_3() -> Attend:
    """FlashAttention-3, the `hopper` build of the same repository."""
    return _flash(import_module("flash_attn_interface"))


def _flash(package: Any) -> Attend:
    """Both packages name their functions and arguments alike; with a padding mask the one for varying lengths runs."""

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
        if mask is None:
            return _first(package.flash_attn_func(q, k, v, softmax_scale=scale))
        batch, length = q.shape[:2]
        packed = pack(k, v, mask)
        queries = torch.arange(0, batch * length + 1, length, dtype=torch.int32, device=q.device)
        out = package.flash_attn_varlen_func(
            q.flatten(0, 1), packed.k, packed.v, cu_seqlens_q=queries, cu_seqlens_k=packed.starts, max_seqlen_q=length,
            max_seqlen_k=k.shape[1], softmax_scale=scale,
        )  # fmt: skip
        return _first(out).view(batch, length, *q.shape[2:])

    return attend


def pack(k: Tensor, v: Tensor, mask: Tensor) -> Packed:
    """The keys and values that count, batch after batch. The device is never waited for: the packed rows keep the size of the
    padded ones.

    Args:
        k, v: (B, Lk, H, D). mask: (B, Lk) bool, True for keys that count.
    """
    order = torch.argsort(mask.flatten().to(torch.uint8), descending=True, stable=True)
    starts = torch.nn.functional.pad(mask.sum(dim=1).cumsum(0), (1, 0)).to(torch.int32)
    return Packed(k.flatten(0, 1)[order], v.flatten(0, 1)[order], starts)


def load_sageattention() -> Attend:
    """SageAttention 1 and 2 (github.com/thu-ml/SageAttention): int8 scores, 16- or 8-bit values, by GPU."""
    sageattn = import_module("sageattention").sageattn

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
        out: Tensor = sageattn(q, k, v, tensor_layout="NHD", is_causal=False, sm_scale=scale)
        return out

    return attend


def load_sageattention_3() -> Attend:
    """SageAttention 3 (same repository, `sageattention3_blackwell`): 4-bit floats. It has no argument for the scale, and it
    takes the mean off the keys in place, so it gets a copy of them."""
    sageattn3_blackwell = import_module("sageattn3").sageattn3_blackwell

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
        if scale is not None:
            q = q * (scale * q.shape[-1] ** 0.5)
        out: Tensor = sageattn3_blackwell(*(x.transpose(1, 2) for x in (q, k.clone(), v)), is_causal=False)
        return out.transpose(1, 2)

    return attend


def load_xformers() -> Attend:
    """xFormers' memory_efficient_attention."""
    memory_efficient_attention = import_module("xformers.ops").memory_efficient_attention

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
        bias = None if mask is None else aligned_bias(mask, q, k)
        out: Tensor = memory_efficient_attention(q, k, v, attn_bias=bias, scale=scale)
        return out

    return attend


def aligned_bias(mask: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """A mask of any kind as an additive bias (B, H, Lq, Lk) in q's dtype whose rows start at multiples of 8 values, which
    xFormers' kernels read."""
    given = broadcast_mask(mask, q)
    assert given is not None
    if given.dtype == torch.bool:
        given = torch.zeros_like(given, dtype=q.dtype).masked_fill(~given, -float("inf"))
    keys = k.shape[1]
    rows = given.new_zeros(*given.shape[:2], q.shape[1], -(-keys // 8) * 8)
    rows[..., :keys] = given
    return rows[..., :keys].expand(q.shape[0], q.shape[2], -1, -1)


def _first(out: Any) -> Tensor:
    """Some builds return (out, log-sum-exp)."""
    tensor: Tensor = out[0] if isinstance(out, tuple) else out
    return tensor

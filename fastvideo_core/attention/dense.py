"""Dense attention of torch itself. Everywhere q, k, v are (B, L, H, D), and so is what comes out."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .compiling import many_shapes
from .requirements import mask_kind


class Attend(Protocol):
    """softmax(scale * q k^T) v per head.

    q: (B, Lq, H, D); k, v: (B, Lk, H, D); mask: see `mask_kind`; scale: D ** -0.5 when None. Returns (B, Lq, H, D).
    """

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor: ...


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """torch's scaled_dot_product_attention, which picks its own kernel."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=broadcast_mask(mask, q), scale=scale)
    return out.transpose(1, 2)


def sdpa_by(kernel: SDPBackend) -> Callable[[], Attend]:
    """The loader of SDPA with one kernel and no other: torch raises where it cannot run."""

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
        with sdpa_kernel(kernel):
            return sdpa(q, k, v, mask, scale)

    return lambda: attend


def load_flex() -> Attend:
    """FlexAttention, compiled on its first call for each shape and kind of mask: uncompiled it would hold all scores."""
    from torch.nn.attention.flex_attention import flex_attention

    # Static shapes: with dynamic ones flex attention does not compile on the CPU (torch 2.11).
    compiled: Any = torch.compile(flex_attention, fullgraph=True, dynamic=False)

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
        heads_first = (x.transpose(1, 2) for x in (q, k, v))
        with many_shapes():
            out: Tensor = compiled(*heads_first, score_mod=_score_mod(mask, q, k), scale=scale)
        return out.transpose(1, 2)

    return attend


def broadcast_mask(mask: Tensor | None, q: Tensor) -> Tensor | None:
    """A mask of any kind as SDPA reads it: (B or 1, H or 1, Lq or 1, Lk), bool, or in q's dtype."""
    if mask is None:
        return None
    if mask_kind(mask) == "padding":
        return mask[:, None, None, :]
    return mask if mask.dtype == torch.bool else mask.to(q.dtype)


def _score_mod(mask: Tensor | None, q: Tensor, k: Tensor) -> Callable[..., Tensor] | None:
    given = broadcast_mask(mask, q)
    if given is None:
        return None
    full = given.expand(q.shape[0], q.shape[2], q.shape[1], k.shape[1])  # a view

    def masked(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return torch.where(full[b, h, i, j], score, -float("inf"))

    def biased(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + full[b, h, i, j]

    return masked if full.dtype == torch.bool else biased

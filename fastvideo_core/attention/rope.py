"""Rotary embedding of neighbouring pairs (Su et al. 2021, arXiv 2104.09864, eq. 15) by diffusers' tables."""

import torch
from torch import Tensor

Rope = tuple[Tensor, Tensor]
"""Diffusers' cosines and sines, (1, L, 1, D), each value twice, of which the cosines at even places and the sines at odd ones are
read. So one tensor can be both: see `interleaved`."""


def interleaved(rope: Rope) -> Rope:
    """The same table as cosine and sine in turn, twice the same tensor: as complex numbers without a copy."""
    cos, sin = rope
    table = torch.stack([cos[..., 0::2], sin[..., 1::2]], dim=-1).flatten(-2)
    return table, table


def rotated(x: Tensor, rope: Rope) -> Tensor:
    """x: (B, L, H, D). By an interleaved table it may be overwritten: one pass over the memory in the place of eight. torch's
    compiler, which makes one pass of the eight, does not know complex numbers."""
    if rope[0] is rope[1] and not torch.compiler.is_compiling() and not torch.is_grad_enabled():
        pairs = torch.view_as_complex(x.float().view(*x.shape[:-1], -1, 2))
        turns = torch.view_as_complex(rope[0].float().view(1, x.shape[1], 1, -1, 2))
        return torch.view_as_real(pairs.mul_(turns)).flatten(-2).type_as(x)
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = rope[0][..., 0::2], rope[1][..., 1::2]
    out = x.new_empty(x.shape)
    out[..., 0::2] = even * cos - odd * sin
    out[..., 1::2] = even * sin + odd * cos
    return out

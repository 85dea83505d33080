"""What the references of all variants are made of: attention with a dense mask, token by token. It materialises every score."""

import torch
from torch import Tensor

from .tiles import TileGrid


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v over the keys that `mask` allows.

    Args:
        q, k, v: (B, L, H, D).
        mask: (B or 1, H or 1, Lq, Lk) bool, True = may attend; every query has a key.

    Returns (B, Lq, H, D).
    """
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v)


def token_mask(tile_map: Tensor, grid: TileGrid, queries: TileGrid | None = None) -> Tensor:
    """(.., Nq, N) bool over tiles -> (.., L, L) bool over tokens in raster order. queries: their grid, where it is another."""
    return tile_map[..., (queries or grid).tile_of, :][..., grid.tile_of]


def tile_means(x: Tensor, grid: TileGrid) -> Tensor:
    """The mean of each tile's tokens: (B, L, H, D) in raster order -> (B, H, N, D)."""
    member = torch.nn.functional.one_hot(grid.tile_of, grid.count).to(x.dtype)
    return torch.einsum("blhd,ln->bhnd", x, member / member.sum(0))

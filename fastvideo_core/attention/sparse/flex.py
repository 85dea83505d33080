"""Block-sparse attention by torch's FlexAttention: the one kernel of all variants, on the CPU and on GPUs.

A tile map says which tiles of keys a tile of queries attends; the kernel visits those blocks and no others.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from ...errors import RequestError
from ..compiling import many_shapes
from .tiles import TileGrid

_CUDA_BLOCK_M, _CUDA_BLOCK_N = 128, 64
"""Rows and columns of a Triton block; those of flex attention's own forward configurations at head_dim 128 on Hopper."""
_LEAST_BLOCK = 16
"""Of a Triton dot product."""


class FlexKernel:
    """See `Kernel`. Forward only.

    Args:
        compiled: by torch.compile: seconds for each new shape; needs a C++ compiler on the CPU, Triton on a GPU; float32,
            bfloat16 or float16. Otherwise nothing is compiled and **every score is materialised**, B * H * P * P of them: for
            small grids and for tests, where it also computes in float64.
    """

    def __init__(self, compiled: bool = True) -> None:
        # Whole graph: what cannot be compiled raises, and does not run materialised unasked. Static shapes: flex attention
        # with dynamic ones does not compile on the CPU (torch 2.11).
        self._flex = torch.compile(flex_attention, fullgraph=True, dynamic=False) if compiled else flex_attention

    def plan(self, tile_map: Tensor, grid: TileGrid, query_width: int | None = None) -> BlockMask:
        """Tiles of keys that are full are visited without a mask. The mask of the others states the whole map, not the padding
        alone, so that flex attention means the same where it does not look at the block lists (not compiled)."""
        key_width, width = grid.width, query_width or grid.width
        filled = grid.counts == key_width
        mask: BlockMask = BlockMask.from_kv_blocks(
            *_visits(tile_map & ~filled),
            *_visits(tile_map & filled),
            BLOCK_SIZE=(width, key_width),
            mask_mod=_allowed(tile_map, grid, width),
            seq_lengths=(tile_map.shape[2] * width, grid.count * key_width),
            compute_q_blocks=False,
        )
        return mask

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, plan: BlockMask) -> Tensor:
        options = _cuda_blocks(plan) if q.is_cuda else None
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        with torch.no_grad(), many_shapes():
            out = self._flex(q, k, v, block_mask=plan, kernel_options=options)
        return cast(Tensor, out).transpose(1, 2)


def _allowed(tile_map: Tensor, grid: TileGrid, width: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The map as flex attention's mask. width: places per tile of queries."""
    batches, heads = tile_map.shape[:2]
    key_width, valid = grid.width, grid.valid

    def allowed(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        batch = b if batches > 1 else 0
        head = h if heads > 1 else 0
        return tile_map[batch, head, q // width, k // key_width] & valid[k]

    return allowed


def _visits(tile_map: Tensor) -> tuple[Tensor, Tensor]:
    """How many tiles each row visits, and their indices first; both int32."""
    order = tile_map.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)
    return tile_map.sum(-1, dtype=torch.int32), order.to(torch.int32)


def _cuda_blocks(mask: BlockMask) -> Any:
    """The kernel's blocks must divide the tiles."""
    width, key_width = mask.BLOCK_SIZE
    rows, columns = _power_of_two(width, _CUDA_BLOCK_M), _power_of_two(key_width, _CUDA_BLOCK_N)
    if min(rows, columns) < _LEAST_BLOCK:
        raise RequestError(
            f"Tiles of {width} queries and {key_width} keys do not suit a GPU: both must be multiples of {_LEAST_BLOCK}. "
            "Use tiles of 4 x 4 x 4 tokens."
        )
    return {"BLOCK_M": rows, "BLOCK_N": columns, "FORCE_USE_FLEX_ATTENTION": True}


def _power_of_two(width: int, at_most: int) -> int:
    return min(width & -width, at_most)

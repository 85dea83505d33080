"""Block-sparse attention by torch's FlexAttention: the one kernel of all variants, on the CPU and on GPUs.

A tile map says which tiles of keys a tile of queries attends; the kernel visits those blocks and no others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from ..compiling import many_shapes
from .memory import Layer, TiledCall
from .tiles import TileGrid

_LEAST_BLOCK = 16
"""Rows and columns of a Triton dot product, at the least."""
_MOST_ROWS, _MOST_COLUMNS, _HEAD_DIM = 128, 64, 128
"""Of a Triton block for q and for k: those of flex attention's own forward configurations at that head_dim in half precision.
Where a row has more bytes, as in float32, there are fewer of them: no block holds more memory."""


@dataclass(frozen=True)
class FlexPlan:
    """query_padding, key_padding: positions that each tile of queries and of keys gets at its end, which count nowhere."""

    mask: BlockMask
    query_padding: int
    key_padding: int


class FlexKernel:
    """See `Kernel`. Forward only.

    Args:
        compiled: by torch.compile: seconds for each new shape; needs a C++ compiler on the CPU, Triton on a GPU; float32,
            bfloat16 or float16. Otherwise nothing is compiled and **every score is materialised**, B * H * P * P of them: for
            small grids and for tests, where it also computes in float64.
        multiple: tiles are padded to a multiple of so many positions. On a GPU it is 16 whatever is given.
    """

    def __init__(self, compiled: bool = True, multiple: int = 1) -> None:
        # Whole graph: what cannot be compiled raises, and does not run materialised unasked. Static shapes: flex attention
        # with dynamic ones does not compile on the CPU (torch 2.11).
        self._flex = torch.compile(flex_attention, fullgraph=True, dynamic=False) if compiled else flex_attention
        self._multiple = multiple

    def plan(self, tile_map: Tensor, grid: TileGrid, query_width: int | None = None) -> FlexPlan:
        """Tiles of keys that are full are visited without a mask. The mask of the others states the whole map, not the padding
        alone, so that flex attention means the same where it does not look at the block lists (not compiled)."""
        width = query_width or grid.width
        query_padding, key_padding = (self._padding(each, tile_map.is_cuda) for each in (width, grid.width))
        width, key_width = width + query_padding, grid.width + key_padding
        filled = grid.counts == key_width
        mask: BlockMask = BlockMask.from_kv_blocks(
            *_visits(tile_map & ~filled),
            *_visits(tile_map & filled),
            BLOCK_SIZE=(width, key_width),
            mask_mod=_allowed(tile_map, padded(grid.valid[None, :, None, None], grid.count, key_padding).flatten(), width),
            seq_lengths=(tile_map.shape[2] * width, grid.count * key_width),
            compute_q_blocks=False,
        )
        return FlexPlan(mask, query_padding, key_padding)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, plan: FlexPlan) -> Tensor:
        tiles, key_tiles = plan.mask.kv_num_blocks.shape[-1], plan.mask.kv_indices.shape[-1]
        q, k, v = padded(q, tiles, plan.query_padding), *(padded(x, key_tiles, plan.key_padding) for x in (k, v))
        options = cuda_blocks(plan.mask.BLOCK_SIZE, q.shape[-1], q.dtype) if q.is_cuda else None
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        with torch.no_grad(), many_shapes():
            out = self._flex(q, k, v, block_mask=plan.mask, kernel_options=options)
        return unpadded(cast(Tensor, out).transpose(1, 2), tiles, plan.query_padding)

    def held_bytes(self, layer: Layer, call: TiledCall) -> int:
        """See `Kernel`. Two lists of indices in the plan; a float32 for each row and head beside the output; copies of tiles
        that are padded. While the lists are made there are up to 17 bytes for each pair of tiles, and no output."""
        (tiles, width), (key_tiles, key_width) = call.queries, call.keys
        padding, key_padding = (self._padding(each, layer.on_cuda) for each in (width, key_width))
        places, key_places = tiles * (width + padding), key_tiles * (key_width + key_padding)
        copies = (places + tiles * width if padding else 0) + (2 * key_places if key_padding else 0)
        pairs = call.pairs(layer)
        return max((places + copies) * layer.token + 4 * places * layer.heads + 8 * pairs, 17 * pairs)

    def _padding(self, width: int, on_cuda: bool) -> int:
        return -width % (_LEAST_BLOCK if on_cuda else self._multiple)


def padded(x: Tensor, tiles: int, padding: int) -> Tensor:
    """(B, tiles * S, H, D) -> (B, tiles * (S + padding), H, D), zero at what each tile has more."""
    if not padding:
        return x
    in_tiles = x.reshape(x.shape[0], tiles, -1, *x.shape[2:])
    return nn.functional.pad(in_tiles, (0, 0, 0, 0, 0, padding)).flatten(1, 2)


def unpadded(x: Tensor, tiles: int, padding: int) -> Tensor:
    """The inverse of `padded`."""
    return x.reshape(x.shape[0], tiles, -1, *x.shape[2:])[:, :, :-padding].flatten(1, 2) if padding else x


def _allowed(tile_map: Tensor, valid: Tensor, width: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The map as flex attention's mask. valid: of each place of a key, whether a token stands there; width: places per tile of
    queries."""
    batches, heads, _, tiles = tile_map.shape
    key_width = len(valid) // tiles

    def allowed(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        batch = b if batches > 1 else 0
        head = h if heads > 1 else 0
        return tile_map[batch, head, q // width, k // key_width] & valid[k]

    return allowed


def _visits(tile_map: Tensor) -> tuple[Tensor, Tensor]:
    """How many tiles each row visits, and their indices first; both int32."""
    order = tile_map.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)
    return tile_map.sum(-1, dtype=torch.int32), order.to(torch.int32)


def cuda_blocks(widths: tuple[int, int], head_dim: int, dtype: torch.dtype) -> Any:
    """The kernel's blocks: they must divide the tiles, and fit into shared memory."""
    row = max(head_dim, _HEAD_DIM) * dtype.itemsize
    fewer = 2 ** (-(-row // (_HEAD_DIM * 2)) - 1).bit_length()
    rows, columns = (
        max(_LEAST_BLOCK, min(width & -width, most // fewer))
        for width, most in zip(widths, (_MOST_ROWS, _MOST_COLUMNS), strict=True)
    )
    return {"BLOCK_M": rows, "BLOCK_N": columns, "FORCE_USE_FLEX_ATTENTION": True}

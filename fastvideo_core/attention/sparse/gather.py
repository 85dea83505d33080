"""Attention over chosen tiles in plain torch: copies the chosen tiles of keys beside each other, for some heads and tiles of
queries at a time.

It needs no compiler and runs on every device and in every dtype. It reads memory for each tile of queries anew, and waits for the
device once per plan, to know how many tiles the longest row has.
"""

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from .memory import Layer, TiledCall
from .tiles import TileGrid
from .variant import in_slices

_COPIED = 2**24
"""Values of k (and as many of v) that are copied at a time: 64 MiB in float32."""


@dataclass(frozen=True)
class GatherPlan:
    """tiles: (B or 1, H or 1, Nq, M) int32, the tiles that each tile of queries attends, those that it may first, M of the
    longest row. counts: (B or 1, H or 1, Nq), how many it may. valid: (N, S) bool, the places of a tile that hold a token."""

    tiles: Tensor
    counts: Tensor
    valid: Tensor

    def of(self, heads: slice, first: int, rows: int) -> "GatherPlan":
        """Of some heads and tiles of queries."""
        some = heads if self.tiles.shape[1] > 1 else slice(None)
        part = slice(first, first + rows)
        return GatherPlan(self.tiles[:, some, part], self.counts[:, some, part], self.valid)

    def allowed(self) -> Tensor:
        """(B or 1, H or 1, Nq, M * S) bool, the places in the tiles that count."""
        chosen = torch.arange(self.tiles.shape[-1], device=self.tiles.device) < self.counts.unsqueeze(-1)
        return (chosen.unsqueeze(-1) & self.valid[self.tiles]).flatten(-2)


class GatherKernel:
    """See `Kernel`."""

    def plan(self, tile_map: Tensor, grid: TileGrid, query_width: int | None = None) -> GatherPlan:
        counts = tile_map.sum(-1)
        longest = int(counts.max())
        tiles = torch.cat([_chosen_first(part, longest) for part in in_slices(tile_map)], dim=1)
        return GatherPlan(tiles, counts, grid.valid.reshape(grid.count, grid.width))

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, plan: GatherPlan) -> Tensor:
        batch, places, heads, head_dim = q.shape
        rows, longest = plan.tiles.shape[2:]
        width = plan.valid.shape[-1]
        q, k, v = _by_tile(q, places // rows), _by_tile(k, width), _by_tile(v, width)
        copied = batch * longest * width * head_dim  # for one tile of queries in one head
        heads_at_once = min(heads, max(1, _COPIED // copied))
        at_once = max(1, _COPIED // (heads_at_once * copied))
        out = torch.empty_like(q)
        for h, i in product(range(0, heads, heads_at_once), range(0, rows, at_once)):
            some = slice(h, h + heads_at_once)
            out[:, some, i : i + at_once] = _attend(
                q[:, some, i : i + at_once], k[:, some], v[:, some], plan.of(some, i, at_once)
            )
        return out.permute(0, 2, 3, 1, 4).flatten(1, 2)

    def held_bytes(self, layer: Layer, call: TiledCall) -> int:
        """See `Kernel`. Where all tiles are attended; then keys and values of some heads and tiles are copied."""
        row = math.prod(call.keys) * layer.head_dim  # of one tile of queries in one head
        copied = min(max(row, _COPIED // layer.videos), row * call.queries[0] * layer.heads)
        return math.prod(call.queries) * layer.token + 2 * copied * layer.itemsize + 4 * call.pairs(layer)


def _by_tile(x: Tensor, width: int) -> Tensor:
    """(B, P, H, D) -> (B, H, P / width, width, D), in the same memory."""
    return x.reshape(x.shape[0], -1, width, *x.shape[2:]).permute(0, 3, 1, 2, 4)


def _chosen_first(tile_map: Tensor, longest: int) -> Tensor:
    order = tile_map.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)
    return order[..., :longest].to(torch.int32)


def _attend(q: Tensor, k: Tensor, v: Tensor, plan: GatherPlan) -> Tensor:
    """q, k, v: (B, H, tiles, places, D). Returns as q."""
    batch, heads = q.shape[:2]
    tiles = plan.tiles.expand(batch, heads, -1, -1)
    allowed = plan.allowed().expand(batch, heads, -1, -1).flatten(0, 1).unsqueeze(2)
    b, h = torch.arange(batch, device=q.device)[:, None, None, None], torch.arange(heads, device=q.device)[:, None, None]
    keys, values = (x[b, h, tiles].flatten(3, 4).flatten(0, 1) for x in (k, v))
    out = nn.functional.scaled_dot_product_attention(q.flatten(0, 1), keys, values, attn_mask=allowed)
    return out.reshape(batch, heads, *out.shape[1:])

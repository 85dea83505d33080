"""SLA, sparse-linear attention (Zhang et al. 2025, arXiv 2509.24006), as TurboDiffusion's checkpoints were trained with it
(arXiv 2512.16093): exact attention to the best blocks, and linear attention to all tokens through a trained projection.

Blocks are neighbours in raster order, 128 queries and 64 keys. With bars for means over a block, k blocks kept:

    sparse = softmax over the tokens of the k blocks of keys with the largest q̄ k̄ᵀ
    linear = phi(q) (phi(k)ᵀ v) / (1e-5 + phi(q) · sum of phi(k)), over all tokens; phi = softmax over D, elu + 1, or relu
    out = sparse + projection(linear)

The authors subtract the mean of all keys before they choose. That moves all scores of a row by the same amount and leaves
their order, so it is left out here. Without a trained projection, which starts at zero, out = sparse.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ...checks import one_of
from .kernel import Kernel, held_at_kernel
from .memory import Layer, TiledCall
from .reference import masked_attention, tile_means, token_mask
from .tiles import Size, TileGrid
from .variant import Attended, Inputs, check_shares, density, top_tiles

FeatureMap = Literal["softmax", "elu", "relu"]
FEATURE_MAPS: Mapping[FeatureMap, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "softmax": lambda x: x.softmax(-1),
        "elu": lambda x: nn.functional.elu(x) + 1,
        "relu": nn.functional.relu,
    }
)
QUERY_BLOCK, KEY_BLOCK = 128, 64
_EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True)
class SLASettings:
    """sparsity: share of the blocks of keys that a block of queries does not attend; TurboDiffusion uses 0.9. feature_map:
    phi of the linear branch, the one that the projection was trained with."""

    name: ClassVar[str] = "SLA"
    sparsity: float
    feature_map: FeatureMap = "softmax"

    def __post_init__(self) -> None:
        check_shares(self, "sparsity")
        one_of("SLA's feature_map", self.feature_map, FEATURE_MAPS)

    @property
    def widths(self) -> tuple[int, int]:
        return QUERY_BLOCK, KEY_BLOCK

    def kept(self, blocks: int) -> int:
        """Of so many blocks of keys, how many a block of queries attends."""
        return max(1, min(int((1 - self.sparsity) * blocks + 1e-9), blocks))  # (1 - 0.9) * 640 is a hair less than 64

    def prepare(self, size: Size, device: torch.device, kernel: Kernel) -> "SparseLinearAttention":
        queries, keys = (TileGrid.rows(size, width, device) for width in (QUERY_BLOCK, KEY_BLOCK))
        return SparseLinearAttention(self, size, queries, keys, kernel)


@dataclass(frozen=True)
class SparseLinearAttention:
    """SLA for one size of video."""

    settings: SLASettings
    size: Size
    queries: TileGrid
    keys: TileGrid
    kernel: Kernel

    def __call__(self, inputs: Inputs) -> Attended:
        out, share = self._in_tiles(inputs)
        out = self.queries.raster(out)
        if inputs.projection is not None:
            linear = linear_attention(inputs, self.settings.feature_map)
            out = out + inputs.projection(linear.to(inputs.projection.weight.dtype)).to(out.dtype)
        return Attended(out, share)

    def _in_tiles(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """The output (B, P, H, D) and the density."""
        q, k, v = self.queries.tiled(inputs.q), self.keys.tiled(inputs.k), self.keys.tiled(inputs.v)
        scores = self.queries.mean(q) @ self.keys.mean(k).transpose(-1, -2)
        tile_map = top_tiles(scores, self.settings.kept(self.keys.count))
        plan = self.kernel.plan(tile_map, self.keys, QUERY_BLOCK)
        return self.kernel(q, k, v, plan), density(tile_map, self.keys, self.queries.counts)

    def held_bytes(self, layer: Layer) -> int:
        """The linear branch has queries, keys and values, phi of the first two, the sparse output, and its own twice."""
        call = TiledCall(queries=(self.queries.count, QUERY_BLOCK), keys=(self.keys.count, KEY_BLOCK))
        sparse = held_at_kernel(layer, self.queries.tokens, call, self.kernel, pair=5)
        return max(sparse, 8 * self.queries.tokens * layer.token) if layer.projection else sparse


def linear_attention(inputs: Inputs, feature_map: FeatureMap) -> Tensor:
    """(B, L, H, D): attention with phi(q) · phi(k) for weights, in time and memory linear in L."""
    phi = FEATURE_MAPS[feature_map]
    q, k = phi(inputs.q), phi(inputs.k)
    values = torch.einsum("blhd,blhe->bhde", k, inputs.v)
    total = k.sum(1, dtype=torch.float64 if k.dtype == torch.float64 else torch.float32)
    share = torch.einsum("blhd,bhd->blh", q, total.to(q.dtype)) + _EPSILON
    return torch.einsum("blhd,bhde->blhe", q, values) / share.unsqueeze(-1)


def reference(inputs: Inputs, size: Size, settings: SLASettings) -> Tensor:
    """SLA token by token, the linear branch as a matrix of weights. Returns (B, L, H, D)."""
    queries, keys = TileGrid.rows(size, QUERY_BLOCK), TileGrid.rows(size, KEY_BLOCK)
    smooth = inputs.k - inputs.k.mean(1, keepdim=True)
    scores = tile_means(inputs.q, queries) @ tile_means(smooth, keys).transpose(-1, -2)
    mask = token_mask(top_tiles(scores, settings.kept(keys.count)), keys, queries)
    out = masked_attention(inputs.q, inputs.k, inputs.v, mask)
    if inputs.projection is None:
        return out
    phi = FEATURE_MAPS[settings.feature_map]
    weights = torch.einsum("bqhd,bkhd->bhqk", phi(inputs.q), phi(inputs.k))
    linear = torch.einsum("bhqk,bkhd->bqhd", weights / (_EPSILON + weights.sum(-1, keepdim=True)), inputs.v)
    projected: Tensor = inputs.projection(linear)
    return out + projected

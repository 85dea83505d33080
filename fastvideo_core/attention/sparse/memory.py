"""How much memory one call of sparse self-attention takes: for the estimate that chooses between one call and two."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A self-attention. videos: in one call, branches count; gate, projection: whether the checkpoint has VSA's or SLA's."""

    heads: int
    head_dim: int
    itemsize: int
    videos: int
    on_cuda: bool
    gate: bool = False
    projection: bool = False

    @classmethod
    def of(cls, attn: Any, dtype: torch.dtype, device: torch.device, videos: int) -> "Layer":
        """attn: a `WanAttention`."""
        return cls(
            heads=attn.heads,
            head_dim=attn.inner_dim // attn.heads,
            itemsize=dtype.itemsize,
            videos=videos,
            on_cuda=device.type == "cuda",
            gate=hasattr(attn, "to_gate_compress"),
            projection=hasattr(attn, "proj_l"),
        )

    @property
    def token(self) -> int:
        """Bytes of one token in all heads."""
        return self.heads * self.head_dim * self.itemsize


@dataclass(frozen=True, kw_only=True)
class TiledCall:
    """What a kernel computes for one video. queries, keys: tiles, and places in each. own_maps: whether each head has one."""

    queries: tuple[int, int]
    keys: tuple[int, int]
    own_maps: bool = True

    def pairs(self, layer: Layer) -> int:
        """Of tiles, in all maps."""
        return self.queries[0] * self.keys[0] * (layer.heads if self.own_maps else 1)

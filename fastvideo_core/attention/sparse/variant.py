"""What every variant of sparse self-attention takes and gives.

A variant's settings are what a person chooses; `settings.prepare(size, device, kernel)` makes the attention of one generation,
which holds everything that depends on the video's size and is called in each layer and step.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from ...checks import of_kind, put, share, whole
from ...errors import RequestError
from .kernel import Kernel
from .memory import Layer
from .tiles import Size, TileGrid

_AT_A_TIME = 2**24
"""Values: 128 MiB of indices of a sort, 64 MiB in float32."""


@dataclass(frozen=True)
class Inputs:
    """One call of self-attention.

    q, k, v: (B, L, H, D) in raster order, normalised and rotated.
    gate: (B, L, H, D), VSA's trained gate of these tokens; None where the checkpoint has none.
    projection: SLA's trained layer D -> D; None where the checkpoint has none.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    gate: Tensor | None = None
    projection: nn.Linear | None = None


@dataclass(frozen=True)
class Attended:
    """out: (B, L, H, D). density: 0-dim float32 on the device, the share of the L * L pairs of tokens that were computed."""

    out: Tensor
    density: Tensor


class SparseAttention(Protocol):
    """A variant made ready for one size of video."""

    @property
    def size(self) -> Size:
        """Of the video, in tokens."""
        ...

    def __call__(self, inputs: Inputs) -> Attended: ...

    def held_bytes(self, layer: Layer) -> int:
        """Estimate of the most that a call holds of one video, `Inputs` included."""
        ...


class SparseSettings(Protocol):
    """A variant with what a person chose: a frozen dataclass."""

    name: ClassVar[str]

    @property
    def widths(self) -> tuple[int, int]:
        """Places of a tile of queries and of a tile of keys, as the kernel gets them."""
        ...

    def prepare(self, size: Size, device: torch.device, kernel: Kernel) -> SparseAttention: ...


def coarse_scores(q: Tensor, k: Tensor) -> Tensor:
    """Attention scores between tiles. q, k: (B, H, N, D), means of tiles. Returns (B, H, N, N)."""
    scores: Tensor = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return scores


def in_slices(x: Tensor) -> tuple[Tensor, ...]:
    """x (B, H, ..) by some heads at a time, for what makes several tensors of its size."""
    return torch.split(x, _heads_at_once(x[:, :1].numel()), dim=1)


def values_in_slice(layer: Layer, of_head: int) -> int:
    """Of one video in one of `in_slices`, at the most, where a video has so many values of each head."""
    return min(layer.heads, _heads_at_once(layer.videos * of_head)) * of_head


def _heads_at_once(values: int) -> int:
    return max(1, _AT_A_TIME // max(1, values))


def top_tiles(scores: Tensor, count: int) -> Tensor:
    """The `count` best tiles of keys for each tile of queries, exactly; of equals the earlier one.

    Args:
        scores: (B, H, Nq, N).

    Returns (B, H, Nq, N) bool.
    """
    least = scores.topk(count, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    better = scores > least
    tied = ~better & ~(scores < least)  # and not ==, which NaN is not
    return better | (tied & (tied.cumsum(-1, dtype=torch.int32) <= count - better.sum(-1, keepdim=True)))


def most_mass(scores: Tensor, mass: float, at_least: int = 1) -> Tensor:
    """The fewest best tiles of keys whose softmax shares reach `mass`: each is kept while those before it have less.

    Args:
        scores: (B, H, Nq, N).
        at_least: tiles that are kept in any case, the best ones.

    Returns (B, H, Nq, N) bool.
    """
    return torch.cat([_most_mass(part, mass, at_least) for part in in_slices(scores)], dim=1)


def _most_mass(scores: Tensor, mass: float, at_least: int) -> Tensor:
    shares, order = scores.softmax(-1).sort(dim=-1, descending=True, stable=True)
    before = shares.cumsum(-1) - shares
    kept = before < (mass if mass < 1 else torch.inf)  # rounding must not leave out a tile where all are asked for
    kept[..., :at_least] = True
    return torch.zeros_like(kept).scatter_(-1, order, kept)


def density(tile_map: Tensor, grid: TileGrid, query_counts: Tensor | None = None) -> Tensor:
    """The share of all pairs of tokens that a tile map computes: counted exactly, in whole numbers.

    Args:
        tile_map: (B or 1, H or 1, Nq, N).
        grid: of the keys.
        query_counts: (Nq,) queries that are computed in each tile of queries, where it is not the grid's counts.
    """
    counts = grid.counts.float()
    keys = torch.cat([part.float() @ counts for part in in_slices(tile_map)], dim=1).long()  # below 2^24: exact in float32
    pairs = (keys * (grid.counts if query_counts is None else query_counts)).sum()
    return pairs / (keys[..., 0].numel() * grid.tokens**2)


def check_shares(settings: "SparseSettings", *names: str) -> None:
    """In place: out of 0..1 by rounding is 0 or 1."""
    for name in names:
        put(settings, **{name: share(f"{settings.name}'s {name}", getattr(settings, name), "it is a share, 0 to 1.")})


def check_tile(name: str, tile: Size) -> None:
    check_three(name, tile, "give tokens in time, height and width, 1 or more of each, such as 4, 4, 4.")


def check_three(name: str, sizes: object, why: str) -> None:
    """Three whole numbers, 1 or more each."""
    of_kind(name, sizes, (tuple, list), why)
    if len(sizes) != 3:  # type: ignore[arg-type]
        raise RequestError(f"{name} is {sizes}: {why}")
    for size in sizes:  # type: ignore[attr-defined]
        whole(name, size, why, least=1)

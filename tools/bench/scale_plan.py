"""What several GPUs would bring, on paper: a step's seconds from the layout, the video's size, and rates that are named.

Nothing here is measured. Nothing overlaps: what is exchanged is added to what is computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from fastvideo_core.parallel import Layout, suggested

from .flops import flops_of_call


@dataclass(frozen=True, kw_only=True)
class Video:
    """A checkpoint's measures and its video. latents: (T, H, W); itemsize: bytes of a value between the blocks."""

    title: str
    heads: int
    ffn_dim: int
    layers: int
    latents: tuple[int, int, int]
    channels: int = 16
    head_dim: int = 128
    itemsize: int = 2
    text_rows: int = 512

    @property
    def tokens(self) -> int:
        frames, height, width = self.latents
        return frames * (height // 2) * (width // 2)

    @property
    def token_bytes(self) -> int:
        """Of all tokens between two blocks."""
        return self.tokens * self.heads * self.head_dim * self.itemsize

    @property
    def weight_bytes(self) -> int:
        """Of the blocks of a text-to-video network: linear layers and the norms of queries and keys, and in float32, as diffusers
        keeps them, another norm and the modulation."""
        dim = self.heads * self.head_dim
        layers = 8 * dim * (dim + 1) + 2 * dim * self.ffn_dim + self.ffn_dim + dim
        return self.layers * (self.itemsize * (layers + 4 * dim) + FLOAT32 * 8 * dim)

    @property
    def flops(self) -> int:
        """Of one branch in one step."""
        return flops_of_call(_Network(self), (1, self.channels, *self.latents), self.text_rows)  # type: ignore[arg-type]


class _Network:
    """The measures as diffusers' networks have them."""

    def __init__(self, video: Video) -> None:
        self.config: Any = _Config(
            video.heads, video.head_dim, video.ffn_dim, video.layers, video.channels, video.channels, (1, 2, 2), 256, 4096
        )


class _Config(NamedTuple):
    num_attention_heads: int
    attention_head_dim: int
    ffn_dim: int
    num_layers: int
    in_channels: int
    out_channels: int
    patch_size: tuple[int, int, int]
    freq_dim: int
    text_dim: int


class Link(NamedTuple):
    """rate: bytes per second that one GPU sends, as it is reached and not as it is sold: an assumption."""

    name: str
    rate: float


NVLINK, PCIE, ETHERNET = Link("NVLink 300 GB/s", 300e9), Link("PCIe 4 22 GB/s", 22e9), Link("25 GbE 2.8 GB/s", 2.8e9)
FLOAT32 = 4
"""Bytes of a value."""
RATE = 450e12
"""FLOP per second that an H100 reaches in bfloat16 attention and products of this size: an assumption."""
VIDEOS = MappingProxyType({
    "14B 720p": Video(title="Wan 14B, 1280 x 720 x 81 frames", heads=40, ffn_dim=13824, layers=40, latents=(21, 90, 160)),
    "14B 480p": Video(title="Wan 14B, 832 x 480 x 81 frames", heads=40, ffn_dim=13824, layers=40, latents=(21, 60, 104)),
    "1.3B 480p": Video(title="Wan 1.3B, 832 x 480 x 81 frames", heads=12, ffn_dim=8960, layers=30, latents=(21, 60, 104)),
})  # fmt: skip


def exchanged(video: Video, ranks: int) -> float:
    """Bytes that each rank sends in the blocks of one branch: of its queries, keys, values and output all but its own share."""
    return video.layers * 4 * video.token_bytes / ranks * (ranks - 1) / ranks


def gathered(video: Video, ranks: int) -> float:
    """Bytes that each rank receives after the last block of one branch."""
    return video.token_bytes * (ranks - 1) / ranks


def velocity_bytes(video: Video) -> int:
    """Of one branch, in float32."""
    frames, height, width = video.latents
    return FLOAT32 * video.channels * frames * height * width


def weights_received(video: Video, ranks: int) -> float:
    """Bytes that each rank receives for one branch where they share the weights: of all blocks all but its own part."""
    return video.weight_bytes * (ranks - 1) / ranks


class Seconds(NamedTuple):
    """Of one step with guidance."""

    computing: float
    exchanging: float
    branches: float
    weights: float

    @property
    def total(self) -> float:
        return sum(self)


def step(
    video: Video, layout: Layout, inside: Link, across: Link, rate: float = RATE, shard_weights: bool = False
) -> Seconds:
    """inside: between the ranks that share tokens; across: between the two that have a branch each. shard_weights: whether the
    former share the weights too."""
    calls = 2 // layout.cfg
    moved = exchanged(video, layout.ulysses) + gathered(video, layout.ulysses)
    return Seconds(
        computing=calls * video.flops / layout.ulysses / rate,
        exchanging=calls * moved / inside.rate,
        branches=velocity_bytes(video) / across.rate if layout.cfg == 2 else 0.0,
        weights=calls * weights_received(video, layout.ulysses) / inside.rate if shard_weights else 0.0,
    )


class Row(NamedTuple):
    """groups: that work at the same time on a video each; seconds: of one step with each link inside a machine; sharded: the same
    where ranks that share tokens share the weights."""

    gpus: int
    machines: int
    layout: Layout
    groups: int
    seconds: tuple[float, ...]
    sharded: tuple[float, ...]


def plan(video: Video, gpus: Sequence[int], on_machine: int, links: Sequence[Link], across: Link) -> list[Row]:
    """The suggested layout for so many GPUs, of which a machine has `on_machine` at the most. A layout for two machines takes two
    of them."""
    rows = []
    for count in gpus:
        machines = max(1, count // on_machine)
        layout = suggested(count, video.heads, machines)
        between = across if machines > 1 else None
        seconds, sharded = (
            tuple(step(video, layout, link, between or link, shard_weights=shared).total for link in links)
            for shared in (False, True)
        )
        groups = count // machines // layout.ulysses * machines // layout.cfg
        rows.append(Row(count, machines, layout, groups, seconds, sharded))
    return rows

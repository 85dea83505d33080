"""Ranks around one phase of diffusers' network: each has a share of the tokens, or a branch of guidance, or both.

The order is `Sharded(Cached(Plain))` at the block seam: a step cache inside the shard keeps own rows alone and sees every block.
Around self-attention, inside the processors, tokens are exchanged for heads and back (Ulysses). All else is each rank's own:
norms, feed-forward and cross-attention, whose text and image tokens no rank shares.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..around import AroundExperts
from ..attention.around import around_self_attention
from ..attention.dense import Attend
from ..attention.sparse.experts import DenoisingExperts
from ..attention.sparse.memory import Layer
from ..attention.sparse.tiles import Size
from ..attention.sparse.variant import Attended, Inputs, SparseAttention
from ..errors import RequestError
from ..guidance import Branch, Denoiser, GuidanceSettings, Prediction
from ..parallel.layout import Layout
from ..parallel.ranks import Mesh, Ranks
from ..parallel.stop import AgreedStop
from ..schedule import Phase
from .blocks import BlockStack, installed
from .sharded_weights import ShardedWeights

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

    from .denoiser import TransformerDenoiser, TransformerExperts, WanDenoiser


@dataclass
class Shard:
    """One rank's part in the calls of a phase. ranks: those that share the tokens; stop: asked before each block's exchange;
    total: how many tokens the call at work has, L."""

    ranks: Ranks
    stop: AgreedStop
    total: int = 0


@dataclass(frozen=True)
class Ulysses:
    """Attention over the tokens of all ranks, of which each computes a share of the heads. q, k, v: (B, l, H, D) of own rows."""

    attend: Attend
    shard: Shard

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
        if mask is not None:
            raise RequestError("Self-attention has a mask, which Wan's never has: ranks cannot share the tokens of this network.")
        shard = self.shard
        shard.stop.check(q.device)
        q, k, v = shard.ranks.to_heads([q, k, v], shard.total)
        return shard.ranks.to_tokens(self.attend(q, k, v, None, scale), shard.total)


@dataclass(frozen=True)
class UlyssesSparse:
    """The same for a sparse variant, with its gate. The share of pairs that it tells is that of own heads."""

    attention: SparseAttention
    shard: Shard

    @property
    def size(self) -> Size:
        return self.attention.size

    def __call__(self, inputs: Inputs) -> Attended:
        shard = self.shard
        shard.stop.check(inputs.q.device)
        gate = [] if inputs.gate is None else [inputs.gate]
        q, k, v, *gates = shard.ranks.to_heads([inputs.q, inputs.k, inputs.v, *gate], shard.total)
        attended = self.attention(Inputs(q, k, v, gates[0] if gates else None, inputs.projection))
        return Attended(shard.ranks.to_tokens(attended.out, shard.total), attended.density)

    def held_bytes(self, layer: Layer) -> int:
        return self.attention.held_bytes(replace(layer, heads=layer.heads // self.shard.ranks.size))


@dataclass(frozen=True)
class UlyssesExperts(AroundExperts):
    """Experts whose self-attention is shared by the ranks: around dense attention, and inside sparse. gathered_bytes: of weights
    that a call gathers."""

    experts: DenoisingExperts
    shard: Shard
    gathered_bytes: int = 0

    @property
    def transformers(self) -> "Mapping[str, WanTransformer3DModel]":
        return self.experts.transformers

    @property
    def device(self) -> torch.device:
        return self.experts.device

    @contextmanager
    def active(self, phase: Phase) -> "Iterator[WanDenoiser]":
        ranks = self.shard.ranks
        with self.experts.active(phase) as denoiser:
            if denoiser.embeddings is not None and ranks.size > 1:
                denoiser.embeddings.rows = ranks.rows
            with around_self_attention(denoiser.transformer, lambda attend: Ulysses(attend, self.shard)):
                yield replace(denoiser, ranks=ranks.size, gathered_bytes=self.gathered_bytes)


@dataclass(frozen=True)
class ShardedStack:
    """A stack of blocks that sees own rows; see `BlockStack`. All ranks have the same tokens before it and after it."""

    blocks: BlockStack
    shard: Shard

    def __call__(self, x: Tensor, context: Tensor, time_mod: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        total = self.shard.total = x.shape[1]
        rows = self.shard.ranks.rows(total)
        if time_mod.ndim == 4 and time_mod.shape[1] == total:
            time_mod = time_mod[:, rows]
        cos = rope[0][:, rows]
        own_rope = cos, cos if rope[0] is rope[1] else rope[1][:, rows]
        own = self.blocks(x[:, rows].contiguous(), context, time_mod, own_rope)
        return self.shard.ranks.gathered(own, total)


@dataclass(frozen=True)
class ShardedExperts(AroundExperts):
    """Experts whose blocks run on own rows: around step caches and all else at the seam. After each phase the transformers are as
    before. weights: of the blocks, where ranks share them too."""

    experts: "TransformerExperts"
    shard: Shard
    weights: ShardedWeights | None = None

    @contextmanager
    def active(self, phase: Phase) -> "Iterator[TransformerDenoiser]":
        with self.experts.active(phase) as denoiser:
            if self.shard.ranks.size == 1:
                yield denoiser
                return
            blocks = tuple(denoiser.transformer.blocks)

            def plain(x: Tensor, context: Tensor, time_mod: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
                for block in blocks:
                    x = block(x, context, time_mod, rope)
                return x

            stack = plain if self.weights is None else self.weights.gathering(plain)
            with installed(denoiser.transformer, ShardedStack(stack, self.shard)):
                yield denoiser


def check_guidance(layout: Layout, guidance: GuidanceSettings) -> None:
    """Raises RequestError where a half of the ranks, which has a branch of guidance, would have no work in some calls."""
    if layout.cfg == 1 or (guidance.mode != "sequential" and guidance.gate == 1):
        return
    asked = "guidance mode sequential" if guidance.mode == "sequential" else f"gate {guidance.gate:g}"
    raise RequestError(
        f"The layout {layout.text()} has a half of the ranks for each branch of guidance, and {asked} leaves one of them without "
        "work. Set guidance mode to auto and gate to 1, or use a layout with cfg 1."
    )


@dataclass(frozen=True)
class RankDenoiser:
    """A denoiser that every rank of a mesh calls with the same latents, and which gives each of them the velocities of all
    branches. In a layout with a half for each branch, a rank computes its own one."""

    denoiser: Denoiser
    mesh: Mesh
    stop: AgreedStop

    def predict(self, latents: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Prediction:
        """Raises RequestError where only some of the ranks would have work."""
        self.stop.begin()
        try:
            if self.mesh.branches.size == 1:
                return self.denoiser.predict(latents, sigma, branches)
            return self._of_all_branches(latents, sigma, branches)
        finally:
            self.stop.begin()

    def _of_all_branches(self, latents: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Prediction:
        halves = self.mesh.branches
        if len(branches) != halves.size:
            raise RequestError(
                f"Each half of the ranks has a branch of guidance (layout {self.mesh.layout.text()}), and a call came for "
                f"{' and '.join(branches)} alone. Set guidance mode to auto or batched, or choose a layout with cfg 1."
            )
        (own,) = self.denoiser.predict(latents, sigma, (branches[halves.rank],)).velocities
        every = halves.gathered(own[None, None], halves.size)[0]
        return Prediction(every.unbind(), [branches])

    def fits_batched(self) -> tuple[bool, str]:
        """As all ranks agree."""
        if self.mesh.branches.size > 1:
            return True, "each half of the ranks has a branch"
        fits, words = self.denoiser.fits_batched()
        lacking = int(self.mesh.aside.sums(torch.tensor([float(not fits)], device="cpu"))[0])
        return lacking == 0, words if fits == (lacking == 0) else f"{words}; on {lacking} other ranks they do not fit"

"""What a network makes of its inputs before its blocks, as often as it changes: the text's and the image's tokens once per phase,
the time embedding once per step, the rope table once per size."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..attention.rope import Rope, interleaved
from .blocks import Seat

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

Tokens = tuple[Tensor, Tensor | None]
Times = tuple[Tensor, Tensor]


@dataclass
class KeptEmbeddings:
    """Works in the place of `condition_embedder` and `rope` of diffusers' Wan network, for one phase.

    given_tokens: how many tokens at the beginning have timestep 0 where tokens have their own.
    rows: of so many tokens, those whose own modulation is made; all of them where None.
    tokens_of, time_of: name what the network is reading, and its timestep and batch, in the next call.
    """

    embedder: nn.Module
    rope: nn.Module
    given_tokens: int
    rows: Callable[[int], slice] | None = None
    tokens_of: Hashable = None
    time_of: Hashable = None
    _tokens: dict[Hashable, Tokens] = field(default_factory=dict, init=False)
    _times: tuple[Hashable, Times] | None = field(default=None, init=False)
    _ropes: dict[tuple[int, ...], Rope] = field(default_factory=dict, init=False)

    def embed(
        self, timestep: Tensor, text: Tensor, image: Tensor | None = None, timestep_seq_len: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """As `WanTimeTextImageEmbedding.forward`. timestep: (B,), or (B * L,) with timestep_seq_len L. Returns time (B, [L,] D),
        modulation (B, [rows,] 6 * D), text (B, rows, D), image (B, image tokens, D) or None."""
        if self._times is None or self._times[0] != self.time_of:
            self._times = self.time_of, self._time(timestep, text[:, :1], timestep_seq_len)
        if self.tokens_of not in self._tokens:
            self._tokens[self.tokens_of] = self._all(timestep[: text.shape[0]], text, image)[2:]
        return *self._times[1], *self._tokens[self.tokens_of]

    def table(self, latents: Tensor) -> Rope:
        """As `WanRotaryPosEmbed.forward`, which reads the size of the latents, (B, C, T, H, W)."""
        size = tuple(latents.shape[2:])
        if size not in self._ropes:
            self._ropes[size] = interleaved(self.rope(latents))
        return self._ropes[size]

    def _time(self, timestep: Tensor, text: Tensor, tokens: int | None) -> Times:
        """Tokens have one of two timesteps: a given frame's, which they begin with, and the step's, which they end with."""
        if tokens is None:
            time, modulation, *_ = self._all(timestep, text)
            return time, modulation
        each = timestep.view(-1, tokens)
        ends = torch.stack([each[:, 0], each[:, -1]], dim=1)
        parts = [part.split(1, dim=1) for part in self._all(ends.flatten(), text, None, 2)[:2]]
        rows = slice(0, tokens) if self.rows is None else self.rows(tokens)
        return self._each(parts[0], slice(0, tokens)), self._each(parts[1], rows)

    def _each(self, ends: tuple[Tensor, ...], rows: slice) -> Tensor:
        """ends: of a given frame's tokens and of the others, (B, 1, D) each. Returns (B, rows, D)."""
        given = min(max(self.given_tokens - rows.start, 0), rows.stop - rows.start)
        counts = given, rows.stop - rows.start - given
        return torch.cat([row.expand(-1, count, -1) for row, count in zip(ends, counts, strict=True)], 1)

    def _all(self, *arguments: Any) -> Any:
        return self.embedder(*arguments)


@contextmanager
def kept_embeddings(transformer: "WanTransformer3DModel", given_tokens: int) -> Iterator[KeptEmbeddings]:
    """The network embeds through `KeptEmbeddings`; afterwards, also on interrupt, its own modules are back."""
    embedder, rope = transformer.condition_embedder, transformer.rope
    kept = KeptEmbeddings(embedder, rope, given_tokens)
    try:
        transformer.condition_embedder, transformer.rope = Seat(kept.embed), Seat(kept.table)
        yield kept
    finally:
        transformer.condition_embedder, transformer.rope = embedder, rope


def embeds_as_made(transformer: "WanTransformer3DModel") -> bool:
    """Whether embeddings are diffusers' own without its hooks, which count on each call (offloading) or change what comes out
    (context parallelism)."""
    from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed, WanTimeTextImageEmbedding

    from .flow_map_embedding import FlowMapEmbedding

    embedders = (WanTimeTextImageEmbedding, FlowMapEmbedding)
    own = ((transformer.condition_embedder, embedders), (transformer.rope, (WanRotaryPosEmbed,)))
    return all(type(module) in kinds and not hasattr(module, "_diffusers_hook") for module, kinds in own)

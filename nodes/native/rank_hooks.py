"""Core's Wan network on one rank of several: through the blocks go the rank's own rows of the tokens, and in self-attention it
has all rows of its share of the heads.

All of it stands in a call's transformer options: core's block hooks, around whatever is there for a block, and core's
`optimized_attention_override`. Self-attention alone mixes rows, so the rest is each rank's own, and the values are those of one
process. In a block it is self-attention that asks first; lengths would not tell it from cross-attention. Around dense attention
and inside sparse, the exchange is a piece of its own among compiled code.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastvideo_core import RequestError
from fastvideo_core.attention import apart
from fastvideo_core.attention.sparse import Attended, Inputs
from fastvideo_core.step_cache import BlockwiseSession
from fastvideo_core.wan import Shard, UlyssesSparse

from .call import lent
from .guard import network_name
from .override import OVERRIDE, by_head

Hook = Callable[..., Any]


@dataclass
class RankShard(Shard):
    """own: whether the next attention in the block at work is self-attention."""

    own: bool = False


@dataclass(frozen=True)
class RankSparse(UlyssesSparse):
    """Sparse self-attention over the tokens of all ranks, for this rank's heads."""

    shard: RankShard

    def __call__(self, inputs: Inputs) -> Attended:
        self.shard.own = False
        return super().__call__(inputs)


@contextmanager
def sharded(
    network: Any, options: dict[str, Any], shard: RankShard, session: BlockwiseSession | None = None
) -> Iterator[None]:  # fmt: skip
    """For one call of core's network with these transformer options. Every rank of the shard makes the call, with the same
    inputs, and has the same output; a stop ends it on all of them before the same exchange.

    Args:
        session: a step cache of the rank's own rows, to which the call was announced. Its decisions are to be those of all ranks.

    Raises:
        RequestError: the network does not call its blocks, or its attention, as plain Wan networks do.
    """
    call = ShardedCall(network, shard, session, options.get(OVERRIDE))
    replaces = options.get("patches_replace", {})
    present = replaces.get("dit", {})
    hooks = {place: call.around(place[1], present.get(place)) for place in call.places}
    with lent(options, **{"patches_replace": {**replaces, "dit": {**present, **hooks}}, OVERRIDE: call}):
        yield
    call.check_over()


class ShardedCall:
    """One call of the network on one rank."""

    def __init__(self, network: Any, shard: RankShard, session: BlockwiseSession | None, attention: Hook | None) -> None:
        """attention: the override that is on the MODEL, which gets the rank's heads of self-attention."""
        self.name, self.shard, self.session, self.attention = network_name(network), shard, session, attention
        self.blocks = len(network.blocks)
        self.asked = 0
        self._apart = apart(self._attend)
        self._rows: dict[str, Tensor] = {}  # of what goes with the tokens through all blocks

    @property
    def places(self) -> list[tuple[str, int]]:
        """Core's names of the blocks among the hooks."""
        return [("double_block", index) for index in range(self.blocks)]

    def around(self, index: int, inner: Hook | None) -> Hook:
        """The hook of a block. inner: the hook that another has there, which sees the rank's rows."""

        def hook(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            original = {"original_block": self._attending(extra["original_block"])}
            x = self._taken(args) if index == 0 else args["img"]

            def block(tokens: Tensor) -> Tensor:
                given = {**args, **self._rows, "img": tokens}
                out: Tensor = (original["original_block"](given) if inner is None else inner(given, {**extra, **original}))["img"]
                return out

            self.asked += 1
            out = block(x) if self.session is None else self.session.block(index, self.blocks, x, block)
            return {"img": self.shard.ranks.gathered(out, self.shard.total) if index == self.blocks - 1 else out}

        return hook

    def __call__(self, function: Hook, q: Tensor, k: Tensor, v: Tensor, heads: int, **options: Any) -> Tensor:
        """Core's override. q, k, v: (B, l, H * D), of self-attention the rank's own rows."""
        out: Tensor = self._apart(function, q, k, v, heads, **options)
        return out

    def _attend(self, function: Hook, q: Tensor, k: Tensor, v: Tensor, heads: int, **options: Any) -> Tensor:
        compute, shard = function if self.attention is None else partial(self.attention, function), self.shard
        if not shard.own:
            out: Tensor = compute(q, k, v, heads=heads, **options)
            return out
        shard.own = False
        shard.stop.check(q.device)
        skip_reshape, skip_output = options.pop("skip_reshape", False), options.pop("skip_output_reshape", False)
        parts = [by_head(x, heads, skip_reshape) for x in (q, k, v)]
        self._check_own(parts, options.get("mask"))
        exchanged = [x.flatten(2) for x in shard.ranks.to_heads(parts, shard.total)]
        own_heads = heads // shard.ranks.size
        mixed = compute(*exchanged, heads=own_heads, **options)
        out = shard.ranks.to_tokens(mixed.unflatten(2, (own_heads, -1)), shard.total)
        return out.transpose(1, 2) if skip_output else out.flatten(2)

    def check_over(self) -> None:
        """Raises RequestError where blocks were called past the hooks."""
        if self.asked != self.blocks:
            raise RequestError(
                f"{self.name} called {self.asked} of its {self.blocks} blocks as ComfyUI's hooks see them, so several GPUs "
                "cannot share its tokens. Load this model with ComfyUI's own loader."
            )

    def _taken(self, args: dict[str, Any]) -> Tensor:
        """The rank's rows of all tokens, (B, L, D)."""
        x: Tensor = args["img"]
        total = self.shard.total = x.shape[1]
        rows = self.shard.ranks.rows(total)
        self._rows = {"pe": args["pe"][:, rows], "vec": _modulation(args["vec"], total, rows)}
        return x[:, rows].clone()  # a view would keep all rows while the blocks run

    def _attending(self, original: Hook) -> Hook:
        def block(args: dict[str, Any]) -> Any:
            self.shard.own = True
            out = original(args)
            if self.shard.own:
                raise self._unlike("computed no attention in a block")
            return out

        return block

    def _check_own(self, parts: list[Tensor], mask: Tensor | None) -> None:
        rows = self._rows["pe"].shape[1]
        if mask is not None:
            raise self._unlike("gave its self-attention a mask")
        if any(x.shape[1] != rows for x in parts):
            raise self._unlike(f"attended first over {parts[1].shape[1]} rows in a block of {rows}")

    def _unlike(self, what: str) -> RequestError:
        return RequestError(
            f"{self.name} {what}: it is not one of the plain Wan networks, whose tokens several GPUs can share. Load this model "
            "with ComfyUI's own loader."
        )


def _modulation(vec: Tensor, total: int, rows: slice) -> Tensor:
    """The rows' time modulation. vec: (B, T, 6, D), one for each of T frames or one for all; core repeats a frame's for its
    tokens, and where these do not divide evenly the last frame's are fewer."""
    frames = vec.shape[1]
    if frames == 1:
        return vec
    tokens_per_frame = -(-total // frames)
    frame = torch.arange(rows.start, rows.stop, device=vec.device) // tokens_per_frame
    return vec[:, frame]

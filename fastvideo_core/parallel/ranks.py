"""The ranks of one group and what they exchange: the only collectives, by torch.distributed.

A rank has a share of the tokens, all heads of each (B, l, H, D); in self-attention it has all tokens of a share of the heads,
(B, L, H / U, D). Shares of tokens differ by one at most and follow from L and the number of ranks; nothing is padded. A group of
one exchanges nothing and copies nothing.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property

import torch
import torch.distributed as dist
from torch import Tensor

from ..guidance import Branch
from .layout import Layout, rows, shares

TIMEOUT = timedelta(minutes=30)
"""Of a collective. Who waits for a rank that compiles or loads must not give up; that one is gone, who started it finds out."""


@dataclass(frozen=True)
class Ranks:
    """One group, as one of its ranks sees it. rank: its place in it, 0..size - 1. group: None for a group of one."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    def rows(self, total: int) -> slice:
        """This rank's rows of `total`."""
        return rows(total, self.size, self.rank)

    def to_heads(self, parts: Sequence[Tensor], total: int) -> list[Tensor]:
        """Tokens for heads, in one exchange.

        Args:
            parts: queries, keys, values and what else goes with them, each (B, l, H, D) of this rank's rows.
            total: L, of all ranks.

        Returns each as (B, L, H / size, D) of this rank's heads, views of one tensor.
        """
        if self.size == 1:
            return list(parts)
        batch, own, _, dim = parts[0].shape
        # Rows come first, so that the ranks' rows lie one after another as they arrive.
        by_rank = [part.reshape(batch, own, self.size, -1, dim).permute(2, 1, 0, 3, 4) for part in parts]
        sent = torch.stack(by_rank, dim=2)  # (size, l, parts, B, H / size, D)
        row = sent[0, 0].numel()
        lengths = [row * count for count in shares(total, self.size)]
        received = self._exchanged(sent, lengths, [row * own] * self.size).view(total, *sent.shape[2:])
        return [received[:, i].transpose(0, 1) for i in range(len(parts))]

    def to_tokens(self, x: Tensor, total: int) -> Tensor:
        """The way back: x (B, L, H / size, D) of this rank's heads; returns (B, l, H, D) of its rows."""
        if self.size == 1:
            return x
        batch, _, heads, dim = x.shape
        own, row = shares(total, self.size)[self.rank], batch * heads * dim
        sent = x.transpose(0, 1).contiguous()  # (L, B, H / size, D)
        lengths = [row * count for count in shares(total, self.size)]
        received = self._exchanged(sent, [row * own] * self.size, lengths).view(self.size, own, batch, heads, dim)
        return received.permute(2, 1, 0, 3, 4).reshape(batch, own, self.size * heads, dim)

    def gathered(self, x: Tensor, total: int) -> Tensor:
        """The rows of all ranks: x (B, l, ...) of this rank's; returns (B, total, ...)."""
        if self.size == 1:
            return x
        longest = shares(total, self.size)[0]
        sent = x.new_empty(longest, x.shape[0], *x.shape[2:])  # one row of a shorter share is not written, and cut off below
        sent[: x.shape[1]].copy_(x.transpose(0, 1))
        received = x.new_empty(self.size * longest, *sent.shape[1:])
        dist.all_gather_into_tensor(received, sent, group=self.group)
        each = received.view(self.size, *sent.shape).unbind()
        parts = [part[:count] for part, count in zip(each, shares(total, self.size), strict=True)]
        joined = received if total == self.size * longest else torch.cat(parts)
        return joined.transpose(0, 1)

    def sums(self, values: Tensor) -> Tensor:
        """values (n,) of all ranks, added up in the order of the ranks: the same bits on each of them."""
        if self.size == 1:
            return values
        each = values.new_empty(self.size * values.numel())
        dist.all_gather_into_tensor(each, values.contiguous(), group=self.group)
        total, *others = each.view(self.size, -1).unbind()
        for other in others:
            total = total + other
        return total

    def _exchanged(self, sent: Tensor, receives: list[int], sends: list[int]) -> Tensor:
        """receives, sends: how many values from and to each rank. Returns what came, flat, in the order of the ranks."""
        received = sent.new_empty(sum(receives))
        dist.all_to_all_single(received, sent.view(-1), receives, sends, group=self.group)
        return received


@dataclass(frozen=True)
class Mesh:
    """The groups that one rank is in. everyone: all ranks of the layout. tokens: those that share the tokens of its branch.
    branches: those that have the same share of the tokens, one of each branch. aside: all ranks once more, always over the CPU,
    for what goes on beside their work."""

    layout: Layout
    everyone: Ranks
    tokens: Ranks
    branches: Ranks
    aside: Ranks

    @cached_property
    def branch(self) -> Branch:
        """The branch that this rank computes where the layout has a half for each."""
        return self.layout.branch(self.everyone.rank)

    def unguided(self, heads: int) -> "Mesh":
        """The same ranks in a phase of one branch: all share its tokens where a network with so many heads allows that. Where it
        does not, each half computes the same."""
        layout = self.layout.unguided(heads)
        tokens = self.everyone if layout.ranks == self.everyone.size else self.tokens
        return replace(self, layout=layout, tokens=tokens, branches=Ranks())


@contextmanager
def joined(layout: Layout, rank: int, init_method: str, backend: str = "gloo", timeout: timedelta = TIMEOUT) -> Iterator[Mesh]:
    """This process is rank `rank` of the layout; afterwards it is none. All of the layout's processes must come in.

    Args:
        init_method: where they meet, as for torch.distributed: tcp://host:port or file:///path.
        backend: "gloo", or "cpu:gloo,cuda:nccl" for tensors on GPUs. The CPU's part is needed in any case.
    """
    if layout.ranks == 1:
        one = Ranks()
        yield Mesh(layout, one, one, one, one)
        return
    dist.init_process_group(backend, init_method, timeout, world_size=layout.ranks, rank=rank)
    try:
        yield Mesh(
            layout,
            Ranks(rank, layout.ranks, dist.group.WORLD),
            _own(layout.sharing_tokens, rank, backend, timeout),
            _own(layout.sharing_rows, rank, backend, timeout),
            _own([list(range(layout.ranks))], rank, "gloo", timeout),
        )
    finally:
        dist.destroy_process_group()


def _own(groups: list[list[int]], rank: int, backend: str, timeout: timedelta) -> Ranks:
    """The one that this rank is in. Every rank makes all of them, as torch.distributed asks; a new group has not the timeout of
    the first one unless it is told."""
    mine = Ranks()
    for members in groups:
        if len(members) == 1:
            continue
        group = dist.new_group(members, timeout, backend)
        if rank in members:
            mine = Ranks(members.index(rank), len(members), group)
    return mine

"""How often each attention ran in one generation, for the report."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..report import AttentionReport
from .select import Attention


@dataclass
class Counted:
    """An attention that counts its calls. In compiled code it cannot: an attribute that changes would be compiled anew each
    time. exact_calls: those that its exact kernel computed in the place of a chosen one of low precision."""

    attention: Attention
    calls: int = 0
    exact_calls: int = 0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
        if not torch.compiler.is_compiling():
            self.calls += 1
        return self.attention(q, k, v, mask, scale)

    def exactly(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
        """A call that the network wants in full precision."""
        if self.attention.exact is None:
            return self(q, k, v, mask, scale)
        if not torch.compiler.is_compiling():
            self.exact_calls += 1
        return self.attention.exact(q, k, v, mask, scale)


@dataclass
class AttentionAccount:
    """Self- and cross-attention of one network in one generation. network_calls: calls of the whole network."""

    self_attention: Counted
    cross_attention: Counted
    network_calls: int = field(default=0)

    @classmethod
    def of(cls, self_attention: Attention, cross_attention: Attention) -> "AttentionAccount":
        return cls(Counted(self_attention), Counted(cross_attention))

    def reports(self, expert: str) -> tuple[AttentionReport, ...]:
        """One for each of the two."""
        parts = (("self-attention", self.self_attention), ("cross-attention", self.cross_attention))
        return tuple(
            AttentionReport(
                expert=expert,
                part=part,
                asked=counted.attention.choice.asked,
                backend=counted.attention.choice.backend,
                why=counted.attention.choice.why,
                calls=counted.calls,
                exact_backend="" if counted.attention.exact is None else counted.attention.exact.choice.backend,
                exact_calls=counted.exact_calls,
                network_calls=self.network_calls,
                rejected=dict(counted.attention.choice.rejected),
            )
            for part, counted in parts
        )

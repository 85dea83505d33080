"""The one seam: the loop over a transformer's blocks.

Diffusers' forward is `for block in self.blocks: h = block(h, context, time_mod, rope)`. A one-element list holding a stack
in the place of the blocks carries whatever works around that loop, and putting the blocks back is its exact inverse.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor, nn


class BlockStack(Protocol):
    """All blocks as one. x: (B, L, D) tokens; context: (B, 512 [+ image tokens], D); time_mod: (B, 6, D), or (B, L, 6, D)
    where each token has its own timestep; rope: pair of (1, L, 1, head_dim). Returns x after the last block."""

    def __call__(self, x: Tensor, context: Tensor, time_mod: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor: ...


class Seat(nn.Module):
    """A function in the place of a module. It keeps what it calls out of torch's module tree, so that the state dict stays
    empty."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.forward = function


@contextmanager
def installed(transformer: nn.Module, stack: Callable[..., Any], name: str = "blocks") -> Iterator[None]:
    """Runs `stack` in place of the transformer's blocks; afterwards, also on interrupt, the blocks are back.

    Args:
        stack: a `BlockStack`, or for other transformers than Wan what takes and gives what their blocks do.
        name: of the transformer's list of blocks.
    """
    blocks = getattr(transformer, name)
    setattr(transformer, name, nn.ModuleList([Seat(stack)]))
    try:
        yield
    finally:
        setattr(transformer, name, blocks)

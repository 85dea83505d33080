"""Where sparse attention meets diffusers' Wan network: another processor for each block's self-attention."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...errors import RequestError
from ..processors import projected
from ..rope import rotated
from .session import SparseSession
from .variant import Inputs

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel


class SparseProcessor:
    """A processor of `WanAttention`, self-attention only. Where the session is dense, the processor that was there works."""

    def __init__(self, dense: Any, layer: int, session: SparseSession) -> None:
        self.dense, self.session = dense, session
        self.covered = session.covers(layer)  # and not its number, for which each layer would be compiled by itself

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """attn: a `WanAttention`, with `to_gate_compress` (VSA) or `proj_l` (SLA) where the checkpoint has them. hidden_states:
        (B, L, heads * D); rotary_emb: pair of (1, L, 1, D). Returns (B, L, heads * D)."""
        if encoder_hidden_states is not None or attention_mask is not None:
            raise RequestError("Sparse attention is self-attention without a mask, and this call has text or a mask.")
        if not (self.session.sparse and self.covered):
            self.session.count_dense()
            given: Tensor = self.dense(attn, hidden_states, None, None, rotary_emb)
            return given
        out = self.session.attend(attention_inputs(attn, hidden_states, rotary_emb))
        return projected(attn, out.flatten(2))


def attention_inputs(attn: Any, hidden: Tensor, rope: tuple[Tensor, Tensor] | None) -> Inputs:
    """What a `WanAttention` makes of its tokens, (B, L, heads * D)."""
    from diffusers.models.transformers.transformer_wan import _get_qkv_projections

    q, k, v = _get_qkv_projections(attn, hidden, None)
    q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (attn.norm_q(q), attn.norm_k(k), v))
    if rope is not None:
        q, k = rotated(q, rope), rotated(k, rope)
    gate = getattr(attn, "to_gate_compress", None)
    return Inputs(
        q,
        k,
        v,
        gate=None if gate is None else gate(hidden).unflatten(2, (attn.heads, -1)),
        projection=getattr(attn, "proj_l", None),
    )


@contextmanager
def sparse_attention(transformer: "WanTransformer3DModel", session: SparseSession) -> Iterator[None]:
    """The network's self-attention is the session's; afterwards, also on interrupt, its processors are back. It goes around
    `installed`, whose stack hides the blocks, and inside `attending`, whose choice stays in dense steps and layers.

    Raises:
        RequestError: a stack is in the place of the blocks, or the network is under diffusers' context parallelism.
    """
    with placed(transformer, lambda dense, layer: session.outside(SparseProcessor(dense, layer, session))):
        yield


@contextmanager
def placed(transformer: "WanTransformer3DModel", processor: Callable[[Any, int], Any]) -> Iterator[None]:
    """Each block's self-attention has `processor(the one before, layer)`; afterwards, also on interrupt, the one before.

    Raises:
        RequestError: a stack is in the place of the blocks, or the network is under diffusers' context parallelism.
    """
    blocks = list(transformer.blocks)
    if not all(hasattr(block, "attn1") for block in blocks):
        raise RequestError("A stack is in the place of the blocks: change self-attention first, and install the stack in it.")
    before = [block.attn1.processor for block in blocks]
    if any(getattr(each, "_parallel_config", None) is not None for each in before):
        raise RequestError(
            "The network is under diffusers' context parallelism, which splits attention itself: do not ask for sparse attention "
            "or for ranks of ours together with it."
        )
    ours = [processor(each, layer) for layer, each in enumerate(before)]
    try:
        for block, each in zip(blocks, ours, strict=True):
            block.attn1.processor = each
        yield
    finally:
        for block, each in zip(blocks, before, strict=True):
            block.attn1.processor = each

"""Where attention meets diffusers' Wan network: a processor for each attention of each block, and nothing process-wide.

Diffusers' own setter also sets a backend for the whole process, which taking it back leaves behind; it is never called.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..conditioning import TEXT_TOKENS
from ..errors import RequestError
from .account import AttentionAccount
from .dense import Attend

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

    from .folding import FoldedText


class AttentionProcessor:
    """Diffusers' processor of `WanAttention` with another attention in it: projections, norms, rope, the image tokens' own keys
    and values and the output are as there."""

    def __init__(self, attend: Attend, text: "FoldedText | None" = None) -> None:
        """text: how the text of cross-attention is folded, if it is."""
        self.attend = attend
        self.text = text

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """attn: a `WanAttention`. hidden_states: (B, L, heads * D); encoder_hidden_states: (B, [image tokens +] 512, heads * D)
        in cross-attention, or the rows of the folded text for the 512; rotary_emb: pair of (1, L, 1, D). Returns (B, L, heads *
        D)."""
        from diffusers.models.transformers.transformer_wan import _get_added_kv_projections, _get_qkv_projections

        image = None
        if attn.add_k_proj is not None and encoder_hidden_states is not None:
            images = encoder_hidden_states.shape[1] - (TEXT_TOKENS if self.text is None else self.text.rows)
            image, encoder_hidden_states = encoder_hidden_states[:, :images], encoder_hidden_states[:, images:]
        q, k, v = _get_qkv_projections(attn, hidden_states, encoder_hidden_states)
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (attn.norm_q(q), attn.norm_k(k), v))
        if rotary_emb is not None:
            q, k = rotated(q, rotary_emb), rotated(k, rotary_emb)
        out = self.attend(q, k, v, attention_mask if self.text is None else self.text.bias).flatten(2).type_as(q)
        if image is not None:
            k, v = _get_added_kv_projections(attn, image)
            k, v = (x.unflatten(2, (attn.heads, -1)) for x in (attn.norm_added_k(k), v))
            out = out + self.attend(q, k, v).flatten(2).type_as(q)
        projected: Tensor = attn.to_out[1](attn.to_out[0](out))
        return projected


def rotated(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of neighbouring pairs (Su et al. 2021, arXiv 2104.09864, eq. 15). x: (B, L, H, D); rope: cosines and
    sines, (1, L, 1, D), each value twice."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = rope[0][..., 0::2], rope[1][..., 1::2]
    out = x.new_empty(x.shape)
    out[..., 0::2] = even * cos - odd * sin
    out[..., 1::2] = even * sin + odd * cos
    return out


@contextmanager
def attending(transformer: "WanTransformer3DModel", account: AttentionAccount) -> Iterator[None]:
    """The network computes with the attentions of `account`, which counts; afterwards, also on interrupt, its processors are
    back. It goes around `installed`, whose stack hides the blocks, and into `folded`, whose text it takes over.

    Raises:
        RequestError: another stack or processor, or diffusers' context parallelism, is on the network.
    """
    modules = _attentions(transformer)
    before = [module.processor for module in modules]
    text = getattr(before[1], "text", None)
    ours = (AttentionProcessor(account.self_attention), AttentionProcessor(account.cross_attention, text))

    def count(*_: Any) -> None:
        account.network_calls += 1

    counting = transformer.register_forward_pre_hook(count)
    try:
        for i, module in enumerate(modules):
            module.processor = ours[i % 2]
        yield
    finally:
        counting.remove()
        for module, processor in zip(modules, before, strict=True):
            module.processor = processor


def _attentions(transformer: "WanTransformer3DModel") -> list[Any]:
    """Self- and cross-attention of each block in turn."""
    from diffusers.models.transformers.transformer_wan import WanAttnProcessor

    from .folding import FoldedTextProcessor

    blocks = list(transformer.blocks)
    if not all(hasattr(block, "attn1") for block in blocks):
        raise RequestError("A stack is in the place of the blocks: choose the attention first, and install the stack inside it.")
    modules = [module for block in blocks for module in (block.attn1, block.attn2)]
    for module in modules:
        if type(module.processor) is FoldedTextProcessor:
            continue
        if type(module.processor) is not WanAttnProcessor:
            raise RequestError(
                f"The network has attention processors of type {type(module.processor).__name__} already. Take them off, or do "
                "not choose an attention backend."
            )
        if module.processor._parallel_config is not None:
            raise RequestError(
                "The network is under diffusers' context parallelism, which splits attention itself: do not choose an attention "
                "backend together with it."
            )
    return modules

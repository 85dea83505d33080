"""Where attention meets diffusers' Wan network: a processor for each attention of each block, and nothing process-wide.

Diffusers' own setter also sets a backend for the whole process, which taking it back leaves behind; it is never called.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..conditioning import TEXT_TOKENS
from ..errors import RequestError
from .account import AttentionAccount
from .dense import Attend
from .rope import rotated

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
        if encoder_hidden_states is not None:
            return self._across(attn, hidden_states, encoder_hidden_states, attention_mask)
        from diffusers.models.transformers.transformer_wan import _get_qkv_projections

        q, k, v = _get_qkv_projections(attn, hidden_states, None)
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (normalised(attn.norm_q, q), normalised(attn.norm_k, k), v))
        if rotary_emb is not None:
            q, k = rotated(q, rotary_emb), rotated(k, rotary_emb)
        return _projected(attn, self.attend(q, k, v, attention_mask).flatten(2).type_as(q))

    def _across(self, attn: Any, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        rows = TEXT_TOKENS if self.text is None else self.text.rows
        q = normalised(attn.norm_q, attn.to_q(x)).view(*x.shape[:2], attn.heads, -1)
        k, v = self._kept(attn, "text", context[:, -rows:], text_keys_values)
        out = self.attend(q, k, v, mask if self.text is None else self.text.bias).flatten(2).type_as(q)
        if attn.add_k_proj is not None:
            k, v = self._kept(attn, "image", context[:, :-rows], image_keys_values)
            out = out + self.attend(q, k, v).flatten(2).type_as(q)
        return _projected(attn, out)

    def _kept(self, attn: Any, part: str, rows: Tensor, compute: "KeysValues") -> tuple[Tensor, Tensor]:
        kept = None if self.text is None else self.text.kept
        return compute(attn, rows) if kept is None else kept.get(attn, part, rows, compute)


KeysValues = Callable[[Any, Tensor], tuple[Tensor, Tensor]]
"""Keys and values, (B, L, H, D), of a `WanAttention` for rows (B, L, heads * D)."""


def text_keys_values(attn: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Of the text; see `KeysValues`."""
    k, v = attn.to_kv(rows).chunk(2, dim=-1) if attn.fused_projections else (attn.to_k(rows), attn.to_v(rows))
    return attn.norm_k(k).unflatten(2, (attn.heads, -1)), v.unflatten(2, (attn.heads, -1))


def image_keys_values(attn: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Of the image tokens; see `KeysValues`."""
    from diffusers.models.transformers.transformer_wan import _get_added_kv_projections

    k, v = _get_added_kv_projections(attn, rows)
    return attn.norm_added_k(k).unflatten(2, (attn.heads, -1)), v.unflatten(2, (attn.heads, -1))


def _projected(attn: Any, out: Tensor) -> Tensor:
    projected: Tensor = attn.to_out[1](attn.to_out[0](out))
    return projected


def normalised(norm: Any, x: Tensor) -> Tensor:
    """norm(x), which may overwrite x: on the CPU torch's own goes over the memory seven times, with new memory each time."""
    is_known = type(norm) is nn.RMSNorm and norm.weight is not None and norm.eps is not None
    in_place = x.device.type == "cpu" and x.dtype == torch.float32
    if not (is_known and in_place) or torch.compiler.is_compiling() or torch.is_grad_enabled():
        out: Tensor = norm(x)
        return out
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(norm.eps).rsqrt_()
    return x.mul_(scale).mul_(norm.weight)


@contextmanager
def attending(transformer: "WanTransformer3DModel", account: AttentionAccount) -> Iterator[None]:
    """The network computes with the attentions of `account`, which counts; afterwards, also on interrupt, its processors are
    back. It goes around `installed`, whose stack hides the blocks, and into `lean_attention`, whose text it takes over.

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

    from .lean import LeanProcessor

    blocks = list(transformer.blocks)
    if not all(hasattr(block, "attn1") for block in blocks):
        raise RequestError("A stack is in the place of the blocks: choose the attention first, and install the stack inside it.")
    modules = [module for block in blocks for module in (block.attn1, block.attn2)]
    for module in modules:
        if type(module.processor) is LeanProcessor:
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

"""Diffusers' processor of Wan's attention, with another attention in it."""

from typing import Any

import torch
from torch import Tensor, nn

from ..conditioning import TEXT_TOKENS
from .dense import Attend
from .folding import FoldedText, KeysValues
from .rope import rotated


class AttentionProcessor:
    """Diffusers' processor of `WanAttention` with another attention in it: projections, norms, rope, the image tokens' own keys
    and values and the output are as there."""

    def __init__(self, attend: Attend, text: FoldedText | None = None) -> None:
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
        return projected(attn, self.attend(q, k, v, attention_mask).flatten(2).type_as(q))

    def _across(self, attn: Any, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        rows = TEXT_TOKENS if self.text is None else self.text.rows
        q = normalised(attn.norm_q, attn.to_q(x)).view(*x.shape[:2], attn.heads, -1)
        k, v = self._kept(attn, "text", context[:, -rows:], text_keys_values)
        out = self.attend(q, k, v, mask if self.text is None else self.text.bias).flatten(2).type_as(q)
        if attn.add_k_proj is not None:
            k, v = self._kept(attn, "image", context[:, :-rows], image_keys_values)
            out = out + self.attend(q, k, v).flatten(2).type_as(q)
        return projected(attn, out)

    def _kept(self, attn: Any, part: str, rows: Tensor, compute: KeysValues) -> tuple[Tensor, Tensor]:
        kept = None if self.text is None else self.text.kept
        return compute(attn, rows) if kept is None else kept.get(attn, part, rows, compute)


def text_keys_values(attn: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Of the text; see `KeysValues`."""
    k, v = attn.to_kv(rows).chunk(2, dim=-1) if attn.fused_projections else (attn.to_k(rows), attn.to_v(rows))
    return attn.norm_k(k).unflatten(2, (attn.heads, -1)), v.unflatten(2, (attn.heads, -1))


def image_keys_values(attn: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Of the image tokens; see `KeysValues`."""
    from diffusers.models.transformers.transformer_wan import _get_added_kv_projections

    k, v = _get_added_kv_projections(attn, rows)
    return attn.norm_added_k(k).unflatten(2, (attn.heads, -1)), v.unflatten(2, (attn.heads, -1))


def projected(attn: Any, out: Tensor) -> Tensor:
    """What a `WanAttention` gives, of its attention's output; both (B, L, heads * D)."""
    given: Tensor = attn.to_out[1](attn.to_out[0](out))
    return given


def normalised(norm: Any, x: Tensor) -> Tensor:
    """norm(x), which may overwrite x: on the CPU torch's own goes over the memory seven times, with new memory each time."""
    is_known = type(norm) is nn.RMSNorm and norm.weight is not None and norm.eps is not None
    in_place = x.device.type == "cpu" and x.dtype == torch.float32
    if not (is_known and in_place) or torch.compiler.is_compiling() or torch.is_grad_enabled():
        out: Tensor = norm(x)
        return out
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(norm.eps).rsqrt_()
    return x.mul_(scale).mul_(norm.weight)

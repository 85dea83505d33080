"""Diffusers' own attention with less work: the same values but for rounding."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .dense import sdpa
from .folding import FoldedText
from .processors import AttentionProcessor

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel


class LeanProcessor(AttentionProcessor):
    """By torch's SDPA, as diffusers does unless told otherwise."""

    def __init__(self, text: FoldedText | None = None) -> None:
        super().__init__(sdpa, text)


@contextmanager
def lean_attention(transformer: "WanTransformer3DModel", text: FoldedText | None) -> Iterator[None]:
    """The network attends by `LeanProcessor`, to `text` folded as it says and to no other; afterwards, also on interrupt, its
    processors are back."""
    modules = [module for block in transformer.blocks for module in (block.attn1, block.attn2)]
    before = [module.processor for module in modules]
    ours = LeanProcessor(), LeanProcessor(text)
    try:
        for i, module in enumerate(modules):
            module.processor = ours[i % 2]
        yield
    finally:
        for module, processor in zip(modules, before, strict=True):
            module.processor = processor


def is_as_made(transformer: "WanTransformer3DModel") -> bool:
    """Whether attention is diffusers' own: neither another processor nor a backend, context parallelism or a stack has been put
    in, which may want all rows of the text."""
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    active, _ = _AttentionBackendRegistry.get_active_backend()
    return active == AttentionBackendName.NATIVE and all(_is_as_made(block) for block in transformer.blocks)


def _is_as_made(block: Any) -> bool:
    from diffusers.models.transformers.transformer_wan import WanAttnProcessor

    if not hasattr(block, "attn1"):
        return False
    processors = [block.attn1.processor, block.attn2.processor]
    if any(type(processor) is not WanAttnProcessor for processor in processors):
        return False
    return all(processor._attention_backend is None and processor._parallel_config is None for processor in processors)

"""Where chosen attention meets diffusers' Wan network: a processor for each attention of each block, and nothing process-wide.

Diffusers' own setter also sets a backend for the whole process, which taking it back leaves behind; it is never called.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from .account import AttentionAccount
from .lean import LeanProcessor
from .processors import AttentionProcessor

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel


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

"""The attention modules of core's Wan network, and other forwards in their place for the duration of a call."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from .core_names import NamedBlock


def attention_blocks(network: nn.Module) -> list[tuple[int, Any]]:
    """(layer, block) of all blocks with core's self- and cross-attention. Layers count in each list of blocks from 0: VACE has a
    second one."""
    lists = [child for child in network.children() if isinstance(child, nn.ModuleList)]
    return [
        (layer, block)
        for blocks in lists
        for layer, block in enumerate(blocks)
        if hasattr(block, "self_attn") and hasattr(block, "cross_attn") and not isinstance(block, NamedBlock)
    ]


def has_own_kernel(network: nn.Module) -> bool:
    """Whether the checkpoint says itself by which kernel its attention is computed, as int8 files of newer cores do. Core leaves
    that out where anything overrides its attention."""
    modules = [module for _, block in attention_blocks(network) for module in (block.self_attn, block.cross_attn)]
    return any(getattr(getattr(module, "comfy_attention", None), "config", None) is not None for module in modules)


@contextmanager
def wrapped_forwards(modules: Iterable[tuple[Any, Callable[[Any], Any]]]) -> Iterator[None]:
    """modules: a module and what makes its forward from the present one, which other packs may have put there; afterwards, also
    on interrupt, that one is back."""
    modules = list(modules)
    before = [vars(module).get("forward") for module, _ in modules]
    try:
        for module, wrap in modules:
            module.forward = wrap(module.forward)
        yield
    finally:
        for (module, _), forward in zip(modules, before, strict=True):
            if forward is None:
                vars(module).pop("forward", None)
            else:
                module.forward = forward

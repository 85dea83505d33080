"""Floating-point operations of diffusers' Wan network: those that its mathematics asks for, and those that a run computes.

Matrix products, convolutions and attention count, a multiplication and an addition as two; what goes value by value does not.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel


def flops_of_call(network: "WanTransformer3DModel", latents: tuple[int, ...], text_rows: int, image_tokens: int = 0) -> int:
    """Of one plain call.

    Args:
        latents: (B, C, T, H, W), both branches in B.
        text_rows: of the text that is given, 512 unless it is folded.
        image_tokens: of the image that is given beside the text (Wan 2.1 I2V: 257).
    """
    config, batch = network.config, latents[0]
    dim, patch = config.num_attention_heads * config.attention_head_dim, math.prod(config.patch_size)
    tokens = math.prod(latents[2:]) // patch
    time = config.freq_dim * dim + dim * dim + 6 * dim * dim
    text = text_rows * (config.text_dim * dim + dim * dim)
    image = image_tokens * config.image_dim * (config.image_dim + dim) if image_tokens else 0
    ends = tokens * dim * patch * (config.in_channels + config.out_channels)
    attention = _self_attention(tokens, dim) + _cross_attention(tokens, text_rows + image_tokens, dim)
    block = attention + 2 * tokens * dim * config.ffn_dim
    return int(2 * batch * (time + text + image + ends + config.num_layers * block))


def _self_attention(tokens: int, dim: int) -> int:
    return 4 * tokens * dim * dim + 2 * tokens * tokens * dim


def _cross_attention(tokens: int, rows: int, dim: int) -> int:
    return 2 * tokens * dim * dim + 2 * rows * dim * dim + 2 * tokens * rows * dim


def computed_flops(run: Callable[[], object]) -> int:
    """What `run` computes, counted at torch's operators, once it has measured its layers."""
    run()
    with FlopCounterMode(display=False, custom_mapping=_uncounted()) as counter:
        run()
    return int(counter.get_total_flops())


def _uncounted() -> dict[Any, Any]:
    """Operators that torch's counter does not know."""

    def linear(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return 2 * math.prod(x) * weight[0]

    def attention(q: Any, k: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return int(sdpa_flop_count(q, k, v))

    known: dict[Any, Any] = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    if torch.backends.mkldnn.is_available():
        known[torch.ops.mkldnn._linear_pointwise] = linear
    return known

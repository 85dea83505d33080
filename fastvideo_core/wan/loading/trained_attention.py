"""Weights that a checkpoint has because it was trained with sparse self-attention.

Diffusers' network has no place for them and drops them. Here they get one, beside the self-attention that they belong to:
`block.attn1.to_gate_compress`, `block.attn1.proj_l`.
"""

import re
from collections.abc import Iterable
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import nn

from ...report import SparseReport

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

TRAINED_WITH = MappingProxyType({"to_gate_compress": "VSA", "proj_l": "SLA"})
"""Name of the layer -> the variant of sparse attention that trains it."""

FLOAT32 = frozenset({"proj_l"})
"""Layers that stay in float32, as in training (TurboDiffusion's SLA)."""

_KEY = re.compile(rf"(?:[\w.]+\.)?(blocks\.\d+\.)(?:[\w.]+\.)?({'|'.join(TRAINED_WITH)})\.(weight|bias)")
"""FastVideo has `blocks.0.to_gate_compress.weight`, TurboDiffusion `blocks.0.self_attn.attn_op.local_attn.proj_l.weight`, others
have it in `attn1` or `self_attn`; the whole may have a prefix."""


def trained_key(key: str) -> str | None:
    """The name under which the network has such a weight; None for another weight."""
    found = _KEY.fullmatch(key)
    return f"{found[1]}attn1.{found[2]}.{found[3]}" if found else None


def make_places(network: "WanTransformer3DModel", names: Iterable[str]) -> None:
    """Empty layers, in every block, for each kind of which there is a weight.

    Args:
        names: of all weights, as `trained_key` gives them.
    """
    kinds = {(name.split(".")[3], name.split(".")[4]) for name in map(trained_key, names) if name}
    head_dim = network.config.attention_head_dim
    for layer in {layer for layer, _ in kinds}:
        width = trained_width(layer, network.config.num_attention_heads * head_dim, head_dim)
        for block in network.blocks:
            with torch.device("meta"):
                setattr(block.attn1, layer, nn.Linear(width, width, bias=(layer, "bias") in kinds))


def trained_width(layer: str, width: int, head_dim: int) -> int:
    """What such a layer takes and gives: all heads of a token, or one."""
    return {"to_gate_compress": width, "proj_l": head_dim}[layer]


def trained_with(network: "WanTransformer3DModel") -> tuple[str, ...]:
    """The variants of sparse attention that the network has trained weights for: "VSA", "SLA"."""
    return tuple(variant for layer, variant in TRAINED_WITH.items() if hasattr(network.blocks[0].attn1, layer))


def unused_training(trained: Iterable[str], reports: Iterable[SparseReport]) -> tuple[str, ...]:
    """Says of sparse attention that the weights were trained with, and that did not run. trained: of all experts, see
    `trained_with`, which reads no network that is at work."""
    ran = {report.variant for report in reports if report.sparse_calls}
    return tuple(
        f"The model was trained with sparse attention {variant} and has weights for it, which took no part in this run."
        for variant in sorted(set(trained) - ran)
    )

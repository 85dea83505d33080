"""The two names of each Wan parameter: the original one (Wan-Video, ComfyUI) and diffusers'. A pure rename, both ways.

Source: the module trees of Wan-Video/Wan2.1 wan/modules/model.py and of diffusers' WanTransformer3DModel.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor

from ...errors import LoadError
from .trained_attention import TRAINED_WITH

_OUTER = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "condition_embedder.delta_embedder": "condition_embedder.delta_embedder",  # AnyFlow's, which Wan has no name for
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
_IMAGE_ATTENTION = {"k_img": "add_k_proj", "v_img": "add_v_proj", "norm_k_img": "norm_added_k"}
_SPARSE_ATTENTION = {name: name for name in TRAINED_WITH}
_IN_BLOCK = {
    "modulation": "scale_shift_table",
    "norm3": "norm2",  # the norm before cross-attention; norm1 and the other norm have no weights
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    **{f"self_attn.{original}": f"attn1.{name}" for original, name in (_ATTENTION | _SPARSE_ATTENTION).items()},
    **{f"cross_attn.{original}": f"attn2.{name}" for original, name in (_ATTENTION | _IMAGE_ATTENTION).items()},
}


class _Names:
    """One direction of the table."""

    def __init__(self, outer: Mapping[str, str], in_block: Mapping[str, str]) -> None:
        self._outer, self._in_block = MappingProxyType(dict(outer)), MappingProxyType(dict(in_block))

    def __call__(self, key: str) -> str | None:
        in_block = re.fullmatch(r"(blocks\.\d+\.)(.+)", key)
        start, rest = in_block.groups() if in_block else ("", key)
        table = self._in_block if in_block else self._outer
        parts = rest.split(".")
        for count in range(len(parts), 0, -1):
            name = table.get(".".join(parts[:count]))
            if name is not None:
                return start + ".".join([name, *parts[count:]])
        return None


def _inverse(table: Mapping[str, str]) -> dict[str, str]:
    return {value: key for key, value in table.items()}


diffusers_key = _Names(_OUTER, _IN_BLOCK)
"""Original name of a module or parameter -> diffusers' name; None for a name that is no original one."""
original_key = _Names(_inverse(_OUTER), _inverse(_IN_BLOCK))
"""Diffusers' name of a module or parameter -> the original one; None for a name that is not diffusers'."""


def original_keys(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a `WanTransformer3DModel` under their original names, as Wan's and ComfyUI's files have them.

    Raises:
        LoadError: a name is not one of that network's (LoRAs rename weights: remove them first).
    """
    names = {key: original_key(key) for key in state_dict}
    unknown = [key for key, name in names.items() if name is None]
    if unknown:
        raise LoadError(f"Not a parameter of WanTransformer3DModel: {some(unknown)}. Remove LoRAs before saving weights.")
    return {str(names[key]): tensor for key, tensor in state_dict.items()}


def some(names: list[str], at_most: int = 4) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(names[:at_most])
    return shown if len(names) <= at_most else f"{shown} and {len(names) - at_most} more"

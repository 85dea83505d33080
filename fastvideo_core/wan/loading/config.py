"""The configuration of a Wan transformer, read from the shapes of its weights. No network, no table of known models."""

import re
from collections.abc import Mapping
from typing import Any

from ...checks import number
from ...errors import LoadError
from ...json_object import check_sizes, made_of, read_json

HEAD_DIM = 128
"""Of all published Wan transformers (Wan2.1 wan/configs: dim / num_heads; ComfyUI's detection divides by it too)."""

Shape = tuple[int, ...]

_ANCHORS = {  # weights that the configuration is read from, and how many dimensions they have
    "patch_embedding.weight": 5,
    "condition_embedder.text_embedder.linear_1.weight": 2,
    "condition_embedder.time_embedder.linear_1.weight": 2,
    "blocks.0.ffn.net.0.proj.weight": 2,
    "proj_out.weight": 2,
}
_IMAGE = "condition_embedder.image_embedder"


def is_wan(shapes: Mapping[str, Shape]) -> bool:
    """Whether the weights that the configuration is read from are there (diffusers' names)."""
    return all(len(shapes.get(name, ())) == dimensions for name, dimensions in _ANCHORS.items())


def infer_config(shapes: Mapping[str, Shape], metadata: Mapping[str, str], where: str) -> dict[str, Any]:
    """Arguments for `WanTransformer3DModel`.

    Args:
        shapes: diffusers' name of each weight -> its shape; `is_wan(shapes)` holds.
        metadata: of the file's header. As for ComfyUI, `config` may hold {"transformer": {"num_heads": ..., "eps": ...}},
            for a network whose heads are not 128 wide.
        where: the file, for messages.

    Raises:
        LoadError: the metadata contradict the shapes, or the width gives no whole number of heads.
    """
    dim, in_channels, *patch = shapes["patch_embedding.weight"]
    text_dim = shapes["condition_embedder.text_embedder.linear_1.weight"][1]
    told = _told(metadata, where)
    check_sizes(told, "text_dim num_heads", f"{where}: metadata `config`")
    if told.get("text_dim", text_dim) != text_dim:
        raise LoadError(f"{where}: its metadata say text_dim {told['text_dim']}, its weights {text_dim}. Mend the metadata.")
    heads = told.get("num_heads", dim // HEAD_DIM)
    if heads < 1 or dim % heads:
        raise LoadError(
            f"{where}: a network {dim} wide cannot have {heads} heads. Heads are {HEAD_DIM} wide unless the file's metadata "
            'say otherwise: config={"transformer": {"num_heads": ...}}.'
        )
    return {
        "patch_size": tuple(patch),
        "num_attention_heads": heads,
        "attention_head_dim": dim // heads,
        "in_channels": in_channels,
        "out_channels": shapes["proj_out.weight"][0] // (patch[0] * patch[1] * patch[2]),
        "text_dim": text_dim,
        "freq_dim": shapes["condition_embedder.time_embedder.linear_1.weight"][1],
        "ffn_dim": shapes["blocks.0.ffn.net.0.proj.weight"][0],
        "num_layers": 1 + max(int(found[1]) for found in map(re.compile(r"blocks\.(\d+)\.").match, shapes) if found),
        "eps": made_of(f"{where}: metadata `config`", lambda: number("eps", told.get("eps", 1e-6), "it is a number.")),
        **_image_config(shapes, dim),
    }


def _told(metadata: Mapping[str, str], where: str) -> dict[str, Any]:
    if "config" not in metadata:
        return {}
    told = read_json(metadata["config"], f"{where}: metadata `config`").get("transformer", {})
    return told if isinstance(told, dict) else {}


def _image_config(shapes: Mapping[str, Shape], dim: int) -> dict[str, int | None]:
    """CLIP tokens (Wan 2.1 I2V) and their position embedding (FLF2V: 2 images of 257 tokens)."""
    norm, positions = shapes.get(f"{_IMAGE}.norm1.weight"), shapes.get(f"{_IMAGE}.pos_embed")
    return {
        "image_dim": norm[0] if norm else None,
        "added_kv_proj_dim": dim if "blocks.0.attn2.add_k_proj.weight" in shapes else None,
        "pos_embed_seq_len": positions[1] if positions else None,
    }

"""Wan's own names for the weights of its VAEs, and what their shapes say about the network.

The names are those of Wan2.1, wan/modules/vae.py and Wan2.2, wan/modules/vae2_2.py; single files, ComfyUI's too, have them.
Both VAEs are diffusers' AutoencoderKLWan; the 2.2 one nests its levels (`is_residual`), the 2.1 one lists all layers in a row.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

_WHOLE = {"conv1": "quant_conv", "conv2": "post_quant_conv"}
_ENDS = {
    "conv1": "conv_in", "head.0": "norm_out", "head.2": "conv_out", "middle.0": "mid_block.resnets.0",
    "middle.1": "mid_block.attentions.0", "middle.2": "mid_block.resnets.1",
}  # fmt: skip
_RESNET = {
    ".residual.0.": ".norm1.", ".residual.2.": ".conv1.", ".residual.3.": ".norm2.", ".residual.6.": ".conv2.",
    ".shortcut.": ".conv_shortcut.",
}  # fmt: skip
_LAYER = re.compile(r"(encoder|decoder)\.(down|up)samples\.(\d+)\.(?:(?:down|up)samples\.(\d+)\.)?(.+)")
_ROW = re.compile(r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(?:(resnets|upsamplers)\.(\d+)\.)?(.+)")
_RESAMPLE = re.compile(r"encoder\.downsamples\.(?:(\d+)\.downsamples\.)?(\d+)\.resample\.1\.weight")
_ALWAYS = {
    "encoder.conv1.weight", "encoder.head.0.gamma", "decoder.conv1.weight", "decoder.head.2.weight", "conv1.weight",
    "conv2.weight",
}  # fmt: skip


def diffusers_key(key: str, res_blocks: int) -> str:
    """Diffusers' name for Wan's `key`. res_blocks: residual blocks per level of the encoder; the decoder has one more."""
    part, _, rest = key.partition(".")
    if part in _WHOLE:
        return f"{_WHOLE[part]}.{rest}"
    layer = _LAYER.fullmatch(key)
    named = f"{part}.{_end(rest)}" if layer is None else f"{_place(layer, res_blocks)}.{layer[5]}"
    for original, name in _RESNET.items():
        named = named.replace(original, name)
    return named


def _end(rest: str) -> str:
    original = next((name for name in _ENDS if rest.startswith(f"{name}.")), None)
    return rest if original is None else _ENDS[original] + rest[len(original) :]


def _place(layer: re.Match[str], res_blocks: int) -> str:
    part, way, level, index = layer[1], layer[2], int(layer[3]), layer[4]
    blocks, resnets = f"{part}.{way}_blocks", res_blocks + (part == "decoder")
    if index is not None:  # 2.2: level, and layer in the level
        return f"{blocks}.{level}." + (f"resnets.{index}" if int(index) < resnets else f"{way}sampler")
    if part == "encoder":  # 2.1: a row of layers in diffusers too
        return f"{blocks}.{level}"
    level, in_level = divmod(level, resnets + 1)
    return f"{blocks}.{level}." + (f"resnets.{in_level}" if in_level < resnets else "upsamplers.0")


def original_key(key: str, res_blocks: int) -> str:
    """Wan 2.1's name for diffusers' `key`: the inverse of `diffusers_key`, which has `res_blocks`."""
    part, _, rest = key.partition(".")
    whole = next((original for original, name in _WHOLE.items() if name == part), None)
    if whole is not None:
        return f"{whole}.{rest}"
    for original, name in _RESNET.items():
        rest = rest.replace(name, original)
    row = _ROW.fullmatch(f"{part}.{rest}")
    if row is not None:
        return f"{part}.{row[2]}samples.{_in_row(row, res_blocks)}.{row[6]}"
    end = next((original for original, name in _ENDS.items() if rest.startswith(f"{name}.")), None)
    return key if end is None else f"{part}.{end}{rest[len(_ENDS[end]) :]}"


def _in_row(row: re.Match[str], res_blocks: int) -> int:
    """The place of a layer among those of all levels."""
    level, kind, index = int(row[3]), row[4], int(row[5] or 0)
    if kind is None:  # the encoder, a row in diffusers too
        return level
    resnets = res_blocks + 1
    return level * (resnets + 1) + (index if kind == "resnets" else resnets)


def is_original(keys: Collection[str]) -> bool:
    """Whether these are Wan's own names of a whole VAE."""
    return set(keys) >= _ALWAYS and any(_RESAMPLE.fullmatch(key) for key in keys)


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """AutoencoderKLWan's configuration, from the shapes of Wan's weights; without the statistics of the latents."""
    found = [match for match in map(_RESAMPLE.fullmatch, shapes) if match is not None]
    resamples = sorted((int(match[1] or 0), int(match[2]), match[0]) for match in found)
    base, channels = shapes["encoder.conv1.weight"][:2]
    dims = [*(shapes[key][0] for *_, key in resamples), shapes["encoder.head.0.gamma"][0]]
    multiples = [dim // base for dim in dims]
    in_time = [key.replace("resample.1", "time_conv") in shapes for *_, key in resamples]
    patch = round((channels / 3) ** 0.5)  # the 2.2 VAE folds 2 x 2 pixels into channels before its first layer
    return {
        "base_dim": base,
        "decoder_base_dim": shapes["decoder.conv1.weight"][0] // multiples[-1],
        "z_dim": shapes["conv2.weight"][0],
        "dim_mult": multiples,
        "num_res_blocks": resamples[0][1],
        "temperal_downsample": in_time,
        "is_residual": found[0][1] is not None,
        "in_channels": channels,
        "out_channels": shapes["decoder.head.2.weight"][0],
        "patch_size": patch if patch > 1 else None,
        "scale_factor_temporal": 2 ** sum(in_time),
        "scale_factor_spatial": patch * 2 ** len(resamples),
    }

"""Which parameter each tensor of a LoRA file changes, and how: one reading for the names that all trainers use.

A key is `<prefix><layer>.<part>`. Layers have original or diffusers' names, any of their dots possibly written as underscores.
Trainers: diffusers and peft (`transformer.`, `base_model.model.`, lora_A/lora_B), ComfyUI and lightx2v (`diffusion_model.`,
diff, diff_b, diff_m), kohya and musubi-tuner (`lora_unet_`, lora_down/lora_up, alpha), VideoX-Fun (`lora_unet__`), OneTrainer
(`lora_transformer_`), DiffSynth (bare, `pipe.dit.`); modules that held the network in training (`model.`, `dit.`).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from .keys import original_key

Part = Literal["down", "up", "up_bias", "alpha", "weight", "bias"]

_PREFIX = re.compile(r"((base_model|model|diffusion_model|transformer|pipe|dit)\.|lora_unet__?|lora_transformer_|lycoris_)+")
_PARTS: tuple[tuple[str, Part], ...] = (
    (r"\.lora_A(\.\w+)?(\.weight)?|\.lora_down\.weight|[._]lora\.down\.weight|\.lora_linear_layer\.down\.weight", "down"),
    (r"\.lora_B(\.\w+)?\.bias", "up_bias"),
    (r"\.lora_B(\.\w+)?(\.weight)?|\.lora_up\.weight|[._]lora\.up\.weight|\.lora_linear_layer\.up\.weight", "up"),
    (r"\.alpha", "alpha"),
    (r"\.diff|\.w_norm", "weight"),
    (r"\.diff_b|\.b_norm", "bias"),
)
_OTHER_ADAPTERS = (
    (r"\.dora_scale|lora_magnitude_vector", "DoRA"),
    (r"\.lokr_", "LoKr"),
    (r"\.hada_", "LoHa"),
    (r"\.lora_mid\.", "LoCon with a middle layer"),
    (r"\.oft_|\.boft_", "OFT"),
    (r"\.(a1|a2|b1|b2)\.weight$", "GLoRA"),
    (r"\.(set|reshape)_weight", "a control LoRA that changes the network's shape"),
)
_TEXT_ENCODER = re.compile(r"lora_te\d?_|text_encoders?\.|text_model\.")


@dataclass(frozen=True)
class Change:
    """What one tensor of the file is for.

    parameter: diffusers' name of the layer's weight, such as `blocks.0.attn1.to_q.weight`, or of a parameter that has no layer
    of its own, such as `blocks.0.scale_shift_table`. The parts `bias` and `up_bias` are for the layer's bias.
    """

    parameter: str
    part: Part


def changes(keys: Iterable[str], parameters: Iterable[str]) -> tuple[dict[str, Change], dict[str, str]]:
    """Read the keys of a LoRA file.

    Args:
        parameters: diffusers' names of the network's parameters.

    Returns:
        key -> its change, and key -> why it changes nothing.
    """
    layers = _layers(parameters)
    found: dict[str, Change] = {}
    ignored: dict[str, str] = {}
    for key in keys:
        layer, part = _split(key)
        if part is not None and _flat(layer) in layers:
            found[key] = Change(layers[_flat(layer)], part)
        else:
            ignored[key] = _why_not(key, "not a part of a LoRA" if part is None else "the network has no such layer")
    return found, ignored


def other_adapters(keys: Iterable[str]) -> set[str]:
    """The kinds of adapter in a file that are no LoRA in the narrow sense."""
    return {words for key in keys for pattern, words in _OTHER_ADAPTERS if re.search(pattern, key)}


def _layers(parameters: Iterable[str]) -> dict[str, str]:
    """Both names of a layer, flat -> the parameter that a change of the layer means: its weight, or itself (modulation)."""
    layers: dict[str, str] = {}
    for parameter in parameters:
        if parameter.endswith(".bias"):
            continue
        name = parameter.removesuffix(".weight")
        for alias in (name, str(original_key(name))):
            layers[_flat(alias)] = parameter
    return layers


def _flat(layer: str) -> str:
    return layer.replace(".", "_")


def _split(key: str) -> tuple[str, Part | None]:
    bare = _PREFIX.sub("", key, count=1) if _PREFIX.match(key) else key
    if bare.endswith(".diff_m"):  # lightx2v: the difference of a block's or the head's modulation
        return bare.removesuffix(".diff_m") + ".modulation", "weight"
    for pattern, part in _PARTS:
        match = re.fullmatch(rf"(.+?)({pattern})", bare)
        if match:
            return match[1], part
    return bare, None


def _why_not(key: str, otherwise: str) -> str:
    if _TEXT_ENCODER.match(key):
        return "it is for a text encoder; only the transformer takes LoRAs"
    if re.search(r"[kv]_img|add_[kv]_proj|norm_added_k|img_emb|image_embedder", key):
        return "it is for the CLIP image branch of Wan 2.1 I2V, which this network lacks"
    return otherwise

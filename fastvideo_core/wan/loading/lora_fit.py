"""Whether the matrices of a LoRA fit the layers that they name."""

import math
from collections.abc import Iterator, Mapping

from ...errors import LoadError
from .checkpoint import StoredTensor
from .keys import some
from .lora_keys import Part

Parts = Mapping[Part, StoredTensor]
Shapes = Mapping[str, tuple[int, ...]]

_SIZES = {1536: " (1.3B)", 3072: " (5B)", 5120: " (14B)"}
"""Published Wan networks by the width of their layers."""


def check_fit(layers: Mapping[str, Parts], shapes: Shapes, where: str) -> None:
    """Raises LoadError, with the keys and the likely cause, for torn pairs and wrong shapes.

    Args:
        layers: name of each layer's weight in the network -> what the file has for it.
        shapes: of the network's parameters.
    """
    torn = [name for name, parts in layers.items() if _is_torn(parts)]
    if torn:
        raise LoadError(f"{where} has only half of what it needs for {some(torn)}. The file is incomplete: download it again.")
    wrong = {name: list(_misfits(parts, shapes[name], shapes.get(_bias(name)))) for name, parts in layers.items()}
    wrong = {name: words for name, words in wrong.items() if words}
    if wrong:
        lines = [f"{name}: {', '.join(words)}" for name, words in wrong.items()]
        raise LoadError(f"{where} does not fit this transformer. {some(lines)}. {_cause(layers, wrong, shapes)}")


def _is_torn(parts: Parts) -> bool:
    pair = {"down", "up"} & parts.keys()
    return len(pair) == 1 or (not pair and "up_bias" in parts)


def _misfits(parts: Parts, weight: tuple[int, ...], bias: tuple[int, ...] | None) -> Iterator[str]:
    """Words for each tensor of the file that has another shape than this layer needs."""
    if "down" in parts:
        down, up = parts["down"].shape, parts["up"].shape
        if (up[0], math.prod(up[1:])) != (weight[0], down[0]) or math.prod(down[1:]) != math.prod(weight[1:]):
            yield f"{up} @ {down} for a weight of {weight}"
    if "alpha" in parts and math.prod(parts["alpha"].shape) != 1:
        yield f"alpha of shape {parts['alpha'].shape}"
    if "weight" in parts and parts["weight"].shape != weight:
        yield f"{parts['weight'].shape} for a weight of {weight}"
    for part in ("bias", "up_bias"):
        if part in parts and parts[part].shape != bias:
            yield f"{parts[part].shape} for a bias of {bias}"


def _bias(name: str) -> str:
    return name.removesuffix("weight") + "bias"


def _cause(layers: Mapping[str, Parts], wrong: Mapping[str, object], shapes: Shapes) -> str:
    width = shapes["patch_embedding.weight"][0]
    made_for = next((layers[name]["up"].shape[0] for name in wrong if ".attn" in name and "up" in layers[name]), width)
    if made_for == width:
        return "It was made for another model: use one made for this one."
    return (
        f"It was made for a network {made_for} wide{_SIZES.get(made_for, '')}; this one is {width} wide{_SIZES.get(width, '')}. "
        "Use the LoRA made for this size."
    )

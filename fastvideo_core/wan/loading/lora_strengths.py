"""LoRAs that act at other strengths for a time: nothing is read again, and afterwards the network is as it was."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from ...checks import number
from ...errors import RequestError
from ..placement import is_group_offloaded
from .keys import some
from .lora_change import LowRank, differences_of, place_of, replacement

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

_APPLIED = "_fastvideo_loras"


@dataclass(frozen=True)
class AppliedLora:
    """A LoRA on a network. digest: of all that its file changes there (sha256), whatever the strength and the file's name."""

    name: str
    strength: float
    digest: str


def applied_loras(transformer: "WanTransformer3DModel") -> tuple[AppliedLora, ...]:
    """In the order in which they were applied."""
    applied: tuple[AppliedLora, ...] = vars(transformer).get(_APPLIED, ())
    return applied


def remember(transformer: "WanTransformer3DModel", lora: AppliedLora) -> None:
    vars(transformer)[_APPLIED] = (*applied_loras(transformer), lora)


def forget(transformer: "WanTransformer3DModel") -> None:
    vars(transformer).pop(_APPLIED, None)


def check_strengths(transformer: "WanTransformer3DModel", loras: Mapping[str, float]) -> None:
    """Whether these LoRAs can act at these strengths.

    Args:
        loras: name of an applied LoRA -> its strength.

    Raises:
        RequestError: a LoRA is not applied, or two of that name are; a strength is not finite; or the network is
            group-offloaded and what changes is more than the weights of linear layers.
    """
    names = [lora.name for lora in applied_loras(transformer)]
    for name, strength in loras.items():
        number(f"The strength of LoRA {name!r:.80}", strength, "it must be a finite number; 1 is as trained.")
        if name not in names:
            there = some([repr(each) for each in names]) or "none"
            raise RequestError(
                f"LoRA {name!r:.80} was to act at strength {strength:g}, and it is not applied; applied: {there}. Apply it to "
                "this transformer first (at strength 0 it does nothing by itself), or give the name of one that is."
            )
        if names.count(name) > 1:
            raise RequestError(
                f"LoRA {name!r:.80} was to act at strength {strength:g}, and {names.count(name)} applied ones have that name. "
                "Give them names of their own where they are applied: apply_lora(..., name=...)."
            )
    _check_places(transformer, loras)


def _check_places(transformer: "WanTransformer3DModel", loras: Mapping[str, float]) -> None:
    if not is_group_offloaded(transformer):
        return
    replaced = [f"{path}.{name}".lstrip(".") for path, module in transformer.named_modules() for name in _changing(module, loras)]
    if replaced:
        raise RequestError(
            f"LoRAs were to act at other strengths ({', '.join(loras)}) on a transformer that is group-offloaded, where only "
            f"weights of linear layers can follow; these change too, and have fixed places: {some(replaced)}. Load the "
            "transformer without group offloading, apply them at that strength before it, or use LoRAs of linear layers only."
        )


@contextmanager
def strengths(transformer: "WanTransformer3DModel", loras: Mapping[str, float]) -> Iterator[None]:
    """Inside, the named LoRAs act at these strengths and all others as applied, by the very values that `apply_lora` with these
    strengths gives; afterwards, also on interrupt, the very parameters that were there are back. The network must not move
    inside.

    Args:
        loras: name of an applied LoRA -> its strength; 0 is the network without it.

    Raises:
        RequestError: as `check_strengths`.
    """
    check_strengths(transformer, loras)
    with ExitStack() as before:
        for module in transformer.modules():
            if isinstance(module, LowRank):
                before.callback(setattr, module, "scale", module.scale)
                module.scale = module.lora.at(loras).scale
            for name in _changing(module, loras):
                holder, key = place_of(module, name)
                before.callback(setattr, holder, key, getattr(holder, key))
                with torch.inference_mode(False), torch.no_grad():  # a parameter like the one whose place it takes
                    setattr(holder, key, nn.Parameter(replacement(module, name, loras), requires_grad=False))
        yield


def _changing(module: nn.Module, loras: Mapping[str, float]) -> list[str]:
    """The replaced parameters of this module that are others at these strengths."""
    return [
        name
        for name, differences in differences_of(module).items()
        if any(difference.lora.at(loras) != difference.lora for difference in differences)
    ]

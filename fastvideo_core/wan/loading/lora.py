"""LoRAs on a loaded transformer: weight + strength * alpha / rank * (up @ down), computed when the weight is used.

A low-rank change of a linear layer is a torch parametrization of its weight: no second copy of the weight, and one product of
small matrices per use, which does not grow with the number of tokens. Everything else (differences of norms, biases and
modulation, the patch embedding) is replaced; the originals stay beside the replacements.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...checks import number
from ...errors import RequestError
from ..at_work import check_idle
from ..placement import has_sharded_weights, is_group_offloaded
from .checkpoint import open_checkpoint
from .keys import some
from .lora_change import undo
from .lora_layers import LayerChange, digest_of, read_layers
from .lora_strengths import AppliedLora, forget, remember

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoraReport:
    """What a LoRA did.

    layers: diffusers' names of the layers that it changed. ignored: key in the file -> why it changed nothing. used: how many
    of the file's tensors did.
    """

    name: str
    strength: float
    layers: tuple[str, ...]
    ignored: Mapping[str, str]
    used: int

    def line(self) -> str:
        """For a log or a report."""
        reasons: dict[str, list[str]] = {}
        for key, why in self.ignored.items():
            reasons.setdefault(why, []).append(key)
        ignored = "".join(f"; {len(keys)} ignored, {why}: {some(keys, 2)}" for why, keys in reasons.items())
        tensors = f"{self.used} of {self.used + len(self.ignored)} tensors used"
        return f"LoRA {self.name} at strength {self.strength:g}: {tensors}, in {len(self.layers)} layers{ignored}"


@dataclass(frozen=True)
class Lora:
    """A file, read for one network. used: how many of its tensors change something; ignored: as in `LoraReport`."""

    name: str
    layers: tuple[LayerChange, ...]
    ignored: Mapping[str, str]
    used: int

    def report(self, strength: float) -> LoraReport:
        return LoraReport(self.name, strength, tuple(layer.name for layer in self.layers), self.ignored, self.used)


def read_lora(transformer: "WanTransformer3DModel", path: Path, name: str | None = None) -> Lora:
    """What the file would change; nothing is changed. Arguments and errors as for `apply_lora`."""
    checkpoint = open_checkpoint(path)
    layers, ignored = read_layers(transformer, checkpoint)
    return Lora(name or path.stem, tuple(layers), ignored, len(checkpoint.tensors) - len(ignored))


def apply_lora(transformer: "WanTransformer3DModel", path: Path, strength: float = 1.0, name: str | None = None) -> LoraReport:
    """Add a LoRA; several add up. LoRAs come before `group_offload`. What was ignored is logged, and in the report.

    Args:
        path: a safetensors file of any of the trainers in `lora_keys`.
        strength: factor of the whole change; 0 is the network without it.
        name: for the report, and for `strengths`; None is the file's name.

    Raises:
        LoadError: nothing in the file fits the network, a shape differs, a pair is torn, or it is another kind of adapter.
            The network is as before.
        RequestError: the strength is not finite, or the network is group-offloaded, shared by ranks or at work.
    """
    number("The LoRA's strength", strength, "it must be a finite number; 1 is as trained.")
    check_idle(transformer, "A LoRA was to be applied")
    _check_changeable(transformer)
    lora = read_lora(transformer, Path(path), name)
    digest = digest_of(lora.layers)
    for layer in lora.layers:
        layer.apply(transformer, lora.name, strength)
    remember(transformer, AppliedLora(lora.name, strength, digest))
    report = lora.report(strength)
    _LOG.log(logging.WARNING if report.ignored else logging.INFO, "%s", report.line())
    return report


def remove_loras(transformer: "WanTransformer3DModel") -> None:
    """Undo every `apply_lora`: the parameters hold the very tensors that they held before.

    Raises:
        RequestError: the network is group-offloaded, shared by ranks or at work.
    """
    check_idle(transformer, "LoRAs were to be removed")
    _check_changeable(transformer)
    for module in list(transformer.modules()):
        undo(module)
    forget(transformer)


def _check_changeable(transformer: "WanTransformer3DModel") -> None:
    if is_group_offloaded(transformer):
        raise RequestError(
            "LoRAs cannot change a transformer that is group-offloaded: its weights have fixed places. Apply LoRAs first, then "
            "offload; to change them, load the transformer again."
        )
    if has_sharded_weights(transformer):
        raise RequestError(
            "LoRAs cannot change a transformer whose weights are shared by ranks: those that it had were fused into them when it "
            "was first loaded. Apply LoRAs before the first generation; to change them, load the model again."
        )

"""By which factor a LoRA's product of matrices counts: alpha / rank, with alpha where the trainer wrote it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import LoadError
from ...json_object import read_json

_METADATA = "lora_adapter_metadata"  # diffusers' save_lora_adapter writes peft's LoraConfig there


@dataclass(frozen=True)
class AdapterScale:
    """The alpha that the header tells; files of other trainers have an `alpha` tensor per layer or none (alpha = rank)."""

    alpha: float | None
    patterns: Mapping[str, float]
    rank_stabilised: bool

    @classmethod
    def of(cls, metadata: Mapping[str, str], where: str) -> "AdapterScale":
        """Raises LoadError when the header tells of an adapter that is more than a LoRA."""
        told = read_json(metadata.get(_METADATA, "{}"), f"{where}: metadata `{_METADATA}`")
        config: dict[str, Any] = {key.removeprefix("transformer."): value for key, value in told.items()}
        if config.get("use_dora"):
            raise LoadError(f"{where} is a DoRA, which is not applied here. Merge it into a model file and load that.")
        alpha, patterns = config.get("lora_alpha"), config.get("alpha_pattern") or {}
        given = [1.0 if alpha is None else alpha, *(patterns.values() if isinstance(patterns, dict) else "?")]
        if not all(map(_is_number, given)):
            raise LoadError(
                f"{where}: metadata `{_METADATA}` has lora_alpha {alpha!r:.80} and alpha_pattern {patterns!r:.80}, which must "
                "be a number and a table of numbers. Download the file again or mend it."
            )
        return cls(alpha, patterns, bool(config.get("use_rslora")))

    def factor(self, layer: str, rank: int, alpha: float | None) -> float:
        """alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA (peft's `LoraLayer.scaling`).

        Args:
            layer: diffusers' name of the layer, without `.weight`.
            alpha: of the layer's own tensor, if the file has one.
        """
        if alpha is None:
            alpha = next((value for end, value in self.patterns.items() if f".{layer}".endswith(f".{end}")), self.alpha)
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)

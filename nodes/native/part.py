"""Which steps of a run a sampler makes, and whether it adds the noise: as in core's KSampler (Advanced)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.sample
import torch
from torch import Tensor

from fastvideo_core import cut

LAST = 10000
"""What core has for `end_at_step`: to the end, whatever the steps."""


@dataclass(frozen=True, kw_only=True)
class SamplerPart:
    """The inputs of the same names."""

    add_noise: str = "enable"
    start_at_step: int = 0
    end_at_step: int = LAST
    return_with_leftover_noise: str = "disable"

    def levels(self, sigmas: Sequence[float]) -> tuple[float, ...]:
        """The noise levels of its steps. sigmas: of the whole run."""
        return cut(sigmas, self.start_at_step, self.end_at_step, self.return_with_leftover_noise == "enable")

    def noise(self, latent: dict[str, Any], seed: int) -> Tensor:
        """For a LATENT (B, C, T, H, W): zeros where the noise is in it already."""
        samples = latent["samples"]
        if self.add_noise == "disable":
            return torch.zeros(samples.shape, dtype=samples.dtype, device="cpu")
        noise: Tensor = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
        return noise


WHOLE = SamplerPart()

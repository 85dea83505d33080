"""Which steps of a run a sampler makes, and whether it adds the noise: as in core's KSampler (Advanced)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.sample
import torch
from comfy_api.latest import io
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


def part_inputs() -> list[io.Input]:
    """Optional, for prompts that were saved before there were any."""
    return [
        io.Combo.Input(
            "add_noise", options=["enable", "disable"], default="enable", optional=True, advanced=True,
            tooltip="disable: the latent comes from a sampler that left noise in it, and this one goes on from there.",
        ),
        io.Int.Input(
            "start_at_step", default=0, min=0, max=LAST, optional=True, advanced=True,
            tooltip="First step of the run that this sampler makes, counted from 0. All samplers of a chain get the same steps "
            "and shift.",
        ),
        io.Int.Input(
            "end_at_step", default=LAST, min=0, max=LAST, optional=True, advanced=True,
            tooltip="Step before which this sampler ends, and where the next one starts. Beyond the last one: to the end.",
        ),
        io.Combo.Input(
            "return_with_leftover_noise", options=["disable", "enable"], default="disable", optional=True, advanced=True,
            tooltip="enable: what is left of the noise at end_at_step stays in the latent, for the next sampler. disable: the "
            "last step removes it.",
        ),
    ]  # fmt: skip

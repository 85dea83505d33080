"""What a step cache is told of one generation on a native MODEL: noise levels, experts, sizes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from fastvideo_core import Phase, Schedule, plan, plan_part

from .diffusers_network import DiffusersNetwork
from .guider import WanGuider
from .low_noise import LowNoiseExpert
from .wan_model import WanFacts, wan_facts


@dataclass(frozen=True, kw_only=True)
class NativeGeneration:
    """One generation of one MODEL.

    sigmas: the levels of this sampler's run, steps + 1. latent_shape: (B, C, T, H, W).
    planned: schedule and phase of this MODEL where our guider has two experts.
    partial: the run begins or ends inside a schedule, as chained samplers' do.
    first_frame: whether the latents hold a given first frame (TI2V 5B).
    gate: as in `GuidanceSettings`.
    """

    model: Any
    facts: WanFacts
    sigmas: tuple[float, ...]
    guidance_scale: float
    planned: tuple[Schedule, Phase] | None
    partial: bool
    latent_shape: tuple[int, ...]
    first_frame: bool
    gate: float

    @property
    def pixels(self) -> int:
        """Width * height of a frame."""
        height, width = self.latent_shape[-2:]
        return int(height * width * (16 if self.facts.latent_channels == 48 else 8) ** 2)

    @property
    def token_bytes(self) -> int:
        """Memory of one tensor of tokens, (B, L, D), of one branch."""
        batch, _, frames, height, width = self.latent_shape
        tokens = batch * frames * -(-height // 2) * -(-width // 2)
        return int(tokens * self.facts.dim * self.model.model.get_dtype_inference().itemsize)

    def phase(self, boundary: float | None) -> tuple[Schedule, Phase]:
        """The noise levels and the phase of them that this MODEL works in.

        Args:
            boundary: where the experts change if this run is one of several chained ones; None for a single expert.

        Raises:
            RequestError: a chained run crosses the boundary.
        """
        if self.planned is not None:
            return self.planned
        scale = self.guidance_scale
        schedule = plan(self.sigmas, scale) if boundary is None else plan_part(self.sigmas, scale, boundary)
        return schedule, schedule.phases[0]


def generation_of(guider: Any, noise: Any, sigmas: Any, denoise_mask: Any) -> NativeGeneration:
    """What an OUTER_SAMPLE wrapper sees. guider: core's or ours; noise: (B, C, T, H, W)."""
    levels = tuple(sigmas.tolist())
    run = guider.run if isinstance(guider, WanGuider | LowNoiseExpert) else None
    planned = None
    if run is not None and run.low_noise is not None:
        planned = (run.schedule, run.schedule.phases[isinstance(guider, LowNoiseExpert)])
    return NativeGeneration(
        model=guider.model_patcher,
        facts=wan_facts(guider.model_patcher),
        sigmas=levels,
        guidance_scale=float(getattr(guider, "cfg", 1.0)),
        planned=planned,
        partial=levels[-1] > 0 or not bool(torch.any(noise)),
        latent_shape=tuple(noise.shape),
        first_frame=denoise_mask is not None and bool((denoise_mask[:, :, 0] == 0).any()),
        gate=1.0 if run is None else run.settings.guidance.gate,
    )


def network_weights(model: Any) -> dict[str, torch.Tensor]:
    """A MODEL's weights by their original names, as they were before LoRAs and other patches; quantised ones as they are
    stored."""
    weights = dict(_unpatched(model))
    if isinstance(model.model.diffusion_model, DiffusersNetwork):
        from fastvideo_core.wan.loading import original_keys

        return original_keys({name.removeprefix("transformer."): weight for name, weight in weights.items()})
    return weights


def _unpatched(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    prefix = "diffusion_model."
    for name, ((weight, _), *_) in model.get_key_patches(prefix).items():
        yield name.removeprefix(prefix), getattr(weight, "_qdata", weight)

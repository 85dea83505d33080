"""What a step cache is told of one generation on a native MODEL: noise levels, experts, sizes."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from fastvideo_core import ROUNDING, Guess, Phase, Schedule, plan, plan_part
from fastvideo_core.step_cache import Fingerprint, fingerprint

from .diffusers_network import DiffusersNetwork
from .facts import WanFacts, wan_facts
from .marks import recipes_of
from .remote_network import remote_of
from .taking_part import run_of


@dataclass(frozen=True, kw_only=True)
class NativeGeneration:
    """One generation of one MODEL.

    sigmas: the levels of this sampler's run, steps + 1. latent_shape: (B, C, T, H, W).
    planned: schedule and phases of this MODEL where our guider knows them; two_networks: whether it has two.
    partial: the run begins or ends inside a schedule, as chained samplers' do.
    first_frame: whether the latents hold a given first frame (TI2V 5B).
    gate: as in `GuidanceSettings`.
    recipes: those that the run's MODELs may be of.
    """

    model: Any
    facts: WanFacts
    sigmas: tuple[float, ...]
    guidance_scale: float
    planned: tuple[Schedule, tuple[Phase, ...]] | None
    two_networks: bool
    partial: bool
    latent_shape: tuple[int, ...]
    first_frame: bool
    gate: float
    recipes: Sequence[Guess]

    @cached_property
    def weights(self) -> Fingerprint:
        """Of the MODEL's network, before LoRAs and other patches."""
        remote = remote_of(self.model)
        return fingerprint(network_weights(self.model)) if remote is None else remote.weights

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

    def part(self, boundary: float | None) -> tuple[Schedule, tuple[Phase, ...]]:
        """The noise levels and the phases of them that this MODEL works in.

        Args:
            boundary: where the experts change if this run is one of several chained ones; None for a single expert.
        """
        if self.planned is not None:
            return self.planned
        scale = self.guidance_scale
        schedule = plan(self.sigmas, scale) if boundary is None else plan_part(self.sigmas, scale, boundary)
        schedule = schedule.within(float(self.model.get_model_object("model_sampling").shift))
        return schedule, schedule.phases


def generation_of(guider: Any, noise: Any, sigmas: Any, denoise_mask: Any) -> NativeGeneration:
    """What an OUTER_SAMPLE wrapper sees. guider: core's or ours; noise: (B, C, T, H, W)."""
    levels = tuple(sigmas.tolist())
    run = run_of(guider)
    planned = None if run is None or not run.planned else (run.schedule, run.phases_of(guider))
    return NativeGeneration(
        model=guider.model_patcher,
        facts=wan_facts(guider.model_patcher),
        sigmas=levels,
        guidance_scale=float(getattr(guider, "cfg", 1.0)),
        planned=planned,
        two_networks=run is not None and run.two_networks,
        partial=levels[-1] > ROUNDING or not bool(torch.any(noise)),
        latent_shape=tuple(noise.shape),
        first_frame=denoise_mask is not None and bool((denoise_mask[:, :, 0] <= ROUNDING).any()),
        gate=1.0 if run is None else run.gate,
        recipes=recipes_of(guider.model_patcher) if run is None else run.recipes,
    )


def noise_level_in(guider: Any) -> Callable[[torch.Tensor], float]:
    """What tells the noise level of a call of the network by core's timesteps (B,), in a run of `guider`."""
    run = run_of(guider)
    if run is None:
        return lambda timestep: float(timestep[0])
    ours = weakref.ref(run)  # it holds what this is told to; a cycle would keep the MODELs

    def level(timestep: torch.Tensor) -> float:
        run = ours()
        assert run is not None  # calls come while it is open
        return run.level_of(timestep)

    return level


def network_weights(model: Any) -> dict[str, torch.Tensor]:
    """A MODEL's weights by their original names, as they were before LoRAs and other patches; packed ones as they are stored."""
    network = model.model.diffusion_model
    if isinstance(network, DiffusersNetwork):
        from fastvideo_core.wan.loading import before_loras, original_keys, tensors_of

        tensors = original_keys(before_loras(tensors_of(network.transformer)))
    else:
        tensors = _tensors(network)
    tensors |= _before_patches(model, "diffusion_model.", tensors)
    return {name: _stored(tensor) for name, tensor in tensors.items()}


def _tensors(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """By the names that the network itself has for them: the state dicts of quantised layers hold others."""
    stored = network.state_dict()
    kept = {name: buffer for name, buffer in network.named_buffers() if name in stored}
    return {**dict(network.named_parameters()), **kept}


def _before_patches(model: Any, prefix: str, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """What core put aside of these tensors while a LoRA, a hook or another patch is in its place."""
    hooked = {name: model.hook_backup[f"{prefix}{name}"][0] for name in names if f"{prefix}{name}" in model.hook_backup}
    patched = {name: model.backup[f"{prefix}{name}"].weight for name in names if f"{prefix}{name}" in model.backup}
    return {**hooked, **patched}


def _stored(weight: torch.Tensor) -> torch.Tensor:
    """Core's quantised tensors pack another one; those of GGUF loaders are one, under the shape of what they stand for."""
    return getattr(weight, "_qdata", weight).detach().as_subclass(torch.Tensor)

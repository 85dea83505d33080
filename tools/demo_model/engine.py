"""Clips of the shipped demo model through the engine, several in one batch: what the quality gates and benchmarks compare."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from fastvideo_core import (
    Conditioning,
    Guidance,
    GuidanceSettings,
    SamplingRequest,
    SolverName,
    WanModel,
    generate,
    image_condition,
)
from fastvideo_core.step_cache import CachedExperts, StepCache, weights_hash
from fastvideo_core.wan import WanExperts
from fastvideo_core.wan.demo import DemoKind, load_demo

from .evaluation import FIRST_SEED, held_out_prompts
from .sampling import GUIDANCE
from .transformer import SHIFT
from .vae import decode_in_pairs
from .world import FRAMES, SIZE, Scene, render

KINDS: tuple[DemoKind, ...] = ("t2v", "i2v", "two experts")


@dataclass(frozen=True)
class Batch:
    """What clips are made of. noise: (B, 16, 5, 8, 8), each clip's of its own seed, so that the batch does not matter."""

    scenes: list[Scene]
    conditioning: Conditioning
    noise: torch.Tensor

    def single(self, index: int) -> Batch:
        """One clip of it."""
        rows = slice(index, index + 1)
        told = self.conditioning
        image = None if told.image is None else told.image[rows]
        alone = Conditioning(positive=told.positive[rows], negative=told.negative[rows], image=image)
        return Batch(self.scenes[rows], alone, self.noise[rows])


@dataclass(frozen=True)
class DemoEngine:
    """The demo model of one kind, ready to make clips."""

    kind: DemoKind
    model: WanModel

    @property
    def weights(self) -> str:
        """The name of its ratio table."""
        return weights_hash(self.model.transformers)

    def request(self, steps: int, solver: SolverName = "euler") -> SamplingRequest:
        """How the model card says to sample; both branches in one call, so that time is the blocks'."""
        return SamplingRequest(
            steps=steps,
            shift=SHIFT,
            guidance_scale=GUIDANCE,
            boundary=self.model.boundary,
            solver=solver,
            guidance=GuidanceSettings(mode="batched"),
        )

    @torch.no_grad()
    def batch(self, count: int, first: int = 0) -> Batch:
        """`count` held-out prompts from the `first` on, each with a seed of its own; for i2v with the first frames of their
        scenes."""
        scenes, texts = (values[first:] for values in held_out_prompts(first + count))
        rows = self.model.text_encoder.encode([*texts, ""])
        noises = [torch.randn(16, 5, 8, 8, generator=torch.Generator().manual_seed(FIRST_SEED + first + i)) for i in range(count)]
        image = self._first_frames(scenes) if self.kind == "i2v" else None
        return Batch(
            scenes, Conditioning(positive=rows[:-1], negative=rows[-1:].expand(count, -1, -1), image=image), torch.stack(noises)
        )

    def _first_frames(self, scenes: list[Scene]) -> torch.Tensor:
        """The image channels (B, 20, 5, 8, 8)."""
        frames = torch.zeros(len(scenes), 3, FRAMES, SIZE, SIZE)
        frames[:, :, 0] = render(scenes)[:, :, 0]
        known = torch.zeros(FRAMES, dtype=torch.bool)
        known[0] = True
        return image_condition(self.model.vae.encode(frames), known)

    def experts(self, batch: Batch) -> WanExperts:
        cpu = torch.device("cpu")
        return WanExperts(self.model.transformers, batch.conditioning, tuple(batch.noise.shape), cpu, cpu)

    def latents(self, request: SamplingRequest, batch: Batch, cache: StepCache | None = None) -> torch.Tensor:
        """(B, 16, 5, 8, 8). The cache is fresh, and made for `request.plan()`."""
        schedule, experts = request.plan(), self.experts(batch)
        through = experts if cache is None else CachedExperts(experts, schedule, cache)
        *_, last = generate(request, through, batch.conditioning, batch.noise, Guidance(schedule, request.guidance))
        return last.latents

    @torch.no_grad()
    def frames(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, 17, 3, 64, 64) in 0..1."""
        vae = self.model.vae
        clips = decode_in_pairs(vae.network, latents * vae.latents_std + vae.latents_mean)
        return (clips / 2 + 0.5).clamp(0, 1).transpose(1, 2)


@functools.cache
def demo_engine(kind: DemoKind) -> DemoEngine:
    return DemoEngine(kind, load_demo(kind))

"""Generations of tiny networks through DBCache, and through cache-dit on the transformer itself."""

import contextlib
import io
from collections.abc import Iterator, Mapping
from typing import Any

import tiny
from diffusers import WanTransformer3DModel
from magcache_run import request
from torch import Tensor

from fastvideo_core import Conditioning, Guidance, SamplingRequest, Step, generate, seeded_noise
from fastvideo_core.schedule import Phase
from fastvideo_core.step_cache import CachedExperts, DBCache, DBCacheSettings

SETTINGS = DBCacheSettings(threshold=0.2, first_blocks=1, warmup_steps=2)
TWO = request(10, 4.0, low_noise_guidance_scale=3.0, boundary=0.8)
"""Shift 5, boundary 0.8: 6 high-noise and 4 low-noise steps."""


def deep(seed: int = 0) -> WanTransformer3DModel:
    """A T2V network of 4 blocks."""
    return tiny.transformer(seed, in_channels=16, out_channels=16, num_layers=4)


def two_experts() -> dict[str, WanTransformer3DModel]:
    return {"high_noise": deep(1), "low_noise": deep(2)}


class Run:
    """A generation through a step cache, and what there is to look at around it."""

    def __init__(
        self,
        asked: SamplingRequest,
        networks: Mapping[str, WanTransformer3DModel],
        settings: DBCacheSettings = SETTINGS,
        condition: Conditioning | None = None,
        shape: tuple[int, ...] = tiny.SHAPE,
        cache: type[Any] = DBCache,
    ) -> None:
        schedule = asked.plan()
        self.cache: Any = cache(schedule, settings)
        self.guidance = Guidance(schedule, asked.guidance)
        self.condition = condition or tiny.conditioning()
        self.experts = CachedExperts(tiny.experts(networks, self.condition, shape), schedule, self.cache)
        self.asked, self.noise = asked, seeded_noise(shape, asked.seed)

    def steps(self) -> Iterator[Step]:
        return generate(self.asked, self.experts, self.condition, self.noise, self.guidance)

    def latents(self) -> list[Tensor]:
        """After each step."""
        return [step.latents for step in self.steps()]

    def actions(self, branch: str = "positive") -> list[str]:
        return [row.plan for row in self.cache.report().phases if row.branch == branch]


def all_latents(asked: SamplingRequest, networks: Mapping[str, WanTransformer3DModel], **other: Any) -> list[Tensor]:
    """After each step of the run without a cache."""
    return [step.latents for step in tiny.run(asked, networks, tiny.conditioning(), **other)[0]]


class Reference:
    """cache-dit on the transformers themselves, as its users put it there, with the settings that this project's mean."""

    def __init__(
        self, asked: SamplingRequest, networks: Mapping[str, WanTransformer3DModel], settings: DBCacheSettings
    ) -> None:
        self.asked, self.networks, self.settings = asked, networks, settings
        self.actions: list[str] = []
        self.differences: list[dict[str, float]] = []

    def latents(self) -> list[Tensor]:
        import cache_dit

        separate = self.asked.guidance.mode == "sequential"
        phases = self.asked.plan().phases
        with contextlib.redirect_stdout(io.StringIO()):
            for phase in phases:
                self._enable(self.networks[phase.expert], phase, separate)
            latents = all_latents(self.asked, self.networks)
            for phase in phases:
                stats = cache_dit.summary(self.networks[phase.expert], logging=False)[0]
                steps = range(len(phase.steps))
                self.actions.append("".join("S" if step in stats.cached_steps else "C" for step in steps))
                self.differences.append(dict(stats.residual_diffs))
                cache_dit.disable_cache(self.networks[phase.expert])
        return latents

    def _enable(self, network: WanTransformer3DModel, phase: Phase, separate: bool) -> None:
        import cache_dit

        settings = self.settings
        adapter = cache_dit.BlockAdapter(
            transformer=network, blocks=network.blocks, forward_pattern=cache_dit.ForwardPattern.Pattern_2,
            has_separate_cfg=separate, check_forward_pattern=True,
        )  # fmt: skip
        limit = settings.skippable(phase)
        config = cache_dit.DBCacheConfig(
            Fn_compute_blocks=settings.outer_blocks(len(network.blocks))[0], Bn_compute_blocks=settings.last_blocks,
            residual_diff_threshold=settings.threshold, max_warmup_steps=settings.warmup(phase), enable_separate_cfg=separate,
            max_continuous_cached_steps=-1 if settings.max_skips is None else settings.max_skips,
            max_cached_steps=-1 if limit is None else limit, num_inference_steps=len(phase.steps),
        )  # fmt: skip
        order = settings.taylor_order
        taylor = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=order) if order else None
        cache_dit.enable_cache(adapter, cache_config=config, calibrator_config=taylor)

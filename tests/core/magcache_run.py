"""Generations of tiny networks through MagCache."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import tiny
from diffusers import WanTransformer3DModel
from torch import Tensor

from fastvideo_core import Conditioning, Guidance, GuidanceSettings, SamplingRequest, Schedule, Step, generate, seeded_noise
from fastvideo_core.guidance import BOTH
from fastvideo_core.step_cache import CachedExperts, MagCache, MagCacheSettings, PhaseRatios, RatioTable

SETTINGS = MagCacheSettings(threshold=0.25, max_skips=2)
HIDDEN_BYTES = 3 * 2 * 3 * 24 * 4
"""One branch of `tiny.SHAPE` between two blocks: a token per 2 x 2 latents, 24 values each, float32."""


def request(steps: int = 10, guidance_scale: float = 5.0, **changes: object) -> SamplingRequest:
    settings = {name: changes.pop(name) for name in ("mode", "gate") if name in changes}
    return SamplingRequest(
        steps=steps, shift=5.0, guidance_scale=guidance_scale, guidance=GuidanceSettings(**settings), solver="euler", **changes
    )


def flat_table(schedule: Schedule, ratio: float = 0.92, boundary: float | None = None) -> RatioTable:
    """Every step's residual is `ratio` of the last one's: at 0.92 the errors are 0.08 and 0.23, so two of three are skipped."""
    phases = [
        PhaseRatios(
            expert=phase.expert,
            sigmas=tuple(schedule.sigmas[i] for i in phase.steps),
            ratios=dict.fromkeys(BOTH, (1.0,) + (ratio,) * (len(phase.steps) - 1)),
        )
        for phase in schedule.phases
    ]
    return RatioTable(
        name="flat", sigmas=schedule.sigmas, shift=5.0, boundary=boundary, phases=tuple(phases), source={"made": "by a test"}
    )


class Run:
    """A generation through MagCache, step by step, and what there is to look at around it."""

    def __init__(
        self,
        asked: SamplingRequest,
        networks: Mapping[str, WanTransformer3DModel],
        condition: Conditioning,
        shape: tuple[int, ...] = tiny.SHAPE,
        settings: MagCacheSettings = SETTINGS,
        table: RatioTable | None = None,
    ) -> None:
        schedule = asked.plan()
        self.cache = MagCache(schedule, table or flat_table(schedule, boundary=asked.boundary), settings)
        self.guidance = Guidance(schedule, asked.guidance)
        self.experts = CachedExperts(tiny.experts(networks, condition, shape), schedule, self.cache)
        self.asked, self.condition, self.noise = asked, condition, seeded_noise(shape, asked.seed)

    def steps(self) -> Iterator[Step]:
        return generate(self.asked, self.experts, self.condition, self.noise, self.guidance)

    def latents(self) -> Tensor:
        return list(self.steps())[-1].latents


def dense(
    asked: SamplingRequest, networks: Mapping[str, WanTransformer3DModel], condition: Conditioning,
    shape: tuple[int, ...] = tiny.SHAPE,
) -> Tensor:  # fmt: skip
    return tiny.run(asked, networks, condition, shape)[0][-1].latents


@contextmanager
def recorded_blocks(network: WanTransformer3DModel) -> Iterator[list[int]]:
    """The batch size of every run of the first and of the last block."""
    batches: list[int] = []
    handles = [
        block.register_forward_hook(lambda module, args, out: batches.append(out.shape[0]))
        for block in (network.blocks[0], network.blocks[-1])
    ]
    try:
        yield batches
    finally:
        for handle in handles:
            handle.remove()

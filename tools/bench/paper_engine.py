"""The engine's ways, counted."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch

from fastvideo_core import (
    DBCacheSettings,
    Guidance,
    GuidanceSettings,
    MagCacheSettings,
    SamplingRequest,
    Schedule,
    generate,
    seeded_noise,
)
from fastvideo_core.attention.sparse import SparseSchedule, SparseSettings
from fastvideo_core.attention.sparse import experts as sparse_experts
from fastvideo_core.attention.sparse.experts import SparseExperts
from fastvideo_core.guidance import BOTH
from fastvideo_core.step_cache import DBCache, MagCache, PhaseRatios, RatioTable
from fastvideo_core.step_cache.experts import CachedExperts
from fastvideo_core.step_cache.session import Sessions
from fastvideo_core.wan import WanExperts
from tools.simulated.sparse import Flex

from .paper_count import Counter, counting
from .paper_videos import Video

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
Around = Callable[[Any, Schedule], Any]
"""What works around the experts of a generation."""


def exact(video: Video, layers: int, around: Around = lambda experts, schedule: experts, **changes: Any) -> Counter:
    """Four steps of which two are behind the gate, both branches in one call. changes: of the request."""
    asked = {
        "steps": 4, "guidance": GuidanceSettings(mode="batched", gate=0.5), "shift": video.row.shift,
        "guidance_scale": video.row.guidance_scale, **changes,
    }  # fmt: skip
    request = SamplingRequest(**asked)
    schedule, given, shape = request.plan(), video.conditioning(), video.size.shape
    with counting() as counter:
        with counter.gpu.valueless():
            networks = {phase.expert: video.size.network(torch.bfloat16, layers) for phase in schedule.phases}
        experts = around(WanExperts(networks, given, shape, CUDA, CPU), schedule)
        noise = seeded_noise(shape, 1, CUDA)
        for _ in generate(request, experts, given, noise, Guidance(schedule, request.guidance)):
            counter.step()
        return counter


def alone(video: Video, layers: int) -> Counter:
    """Two steps without guidance."""
    return exact(video, layers, steps=2, guidance_scale=1.0)


def two_experts(video: Video, layers: int) -> Counter:
    """Two steps without guidance, one of each expert."""
    return exact(video, layers, steps=2, shift=1.0, guidance_scale=1.0, boundary=video.row.boundary)


def magcache(video: Video, layers: int) -> Counter:
    """The second of two steps is skipped."""
    settings = MagCacheSettings(threshold=1.0, max_skips=1, retention=0.0)
    return _cached(video, layers, lambda schedule: MagCache(schedule, _flat(schedule), settings))


def dbcache(video: Video, layers: int) -> Counter:
    """The third of three steps is skipped but for the first block."""
    settings = DBCacheSettings(threshold=0.5, first_blocks=1, warmup_steps=2)
    return _cached(video, layers, lambda schedule: DBCache(schedule, settings), steps=3)


def _cached(video: Video, layers: int, cache: Callable[[Schedule], Sessions], steps: int = 2) -> Counter:
    asked = {"guidance": GuidanceSettings(mode="batched"), "steps": steps}
    return exact(video, layers, lambda experts, schedule: CachedExperts(experts, schedule, cache(schedule)), **asked)


def _flat(schedule: Schedule) -> RatioTable:
    """Nothing changes from step to step."""
    row = (1.0,) * schedule.steps
    (phase,) = schedule.phases
    ratios = PhaseRatios(expert=phase.expert, sigmas=schedule.sigmas[:-1], ratios=dict.fromkeys(BOTH, row))
    return RatioTable(name="flat", sigmas=schedule.sigmas, shift=None, boundary=None, phases=(ratios,), source={})


def sparse(video: Video, layers: int, settings: SparseSettings) -> Counter:
    """Two steps, the second without guidance: all of self-attention but the kernel, for which see `kernel_flops`."""
    chosen = SparseSchedule(settings=settings)
    with mock.patch.object(sparse_experts, "prepare_kernel", lambda *_: Flex()):
        return exact(video, layers, lambda experts, schedule: SparseExperts(experts, schedule, chosen), steps=2)

"""The estimate that chooses between one call and two, against what is allocated on a simulated GPU at the true sizes."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
from magcache_run import flat_table
from simulated_cuda import SIZES, SimulatedExperts, peak_of, simulated
from torch.testing._internal.distributed.fake_pg import FakeStore

from fastvideo_core import MagCacheSettings, plan, shifted_sigmas
from fastvideo_core.parallel import AgreedStop, Ranks
from fastvideo_core.step_cache import CachedExperts, MagCache
from fastvideo_core.wan.sharded import Shard, ShardedExperts, UlyssesExperts

DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
every_size = pytest.mark.parametrize("size", SIZES.values(), ids=list(SIZES))
SCHEDULE = plan(shifted_sigmas(10, 5.0), 4.0)
(PHASE,) = SCHEDULE.phases


def assert_right(needed: int, peak: int) -> None:
    """Enough, and no more than a tenth too much."""
    assert 1 <= needed / peak <= 1.1, f"{needed / 2**30:.2f} GiB estimated, {peak / 2**30:.2f} GiB counted"


@DTYPES
@every_size
def test_the_estimate_is_what_a_call_takes(size: object, dtype: torch.dtype) -> None:
    experts = SimulatedExperts(size, dtype)
    with simulated(), experts.active(PHASE) as denoiser:
        assert_right(denoiser.needed_bytes(), peak_of(denoiser, experts))


def test_it_does_not_depend_on_the_number_of_blocks_but_for_the_keys_that_are_kept() -> None:
    peaks = []
    for layers in (1, 4):
        experts = SimulatedExperts(SIZES["T2V 1.3B"], layers=layers)
        with simulated(), experts.active(PHASE) as denoiser:
            peaks.append(peak_of(denoiser, experts) - denoiser._keys_bytes())
    assert peaks[1] == pytest.approx(peaks[0], rel=1e-3)


@pytest.mark.parametrize("trend", [0.0, 0.7])
@pytest.mark.parametrize("name", ["T2V 1.3B", "T2V 14B", "TI2V 5B"])
def test_what_a_step_cache_holds_is_in_it(name: str, trend: float) -> None:
    settings = MagCacheSettings(threshold=0.2, max_skips=2, retention=0.5, trend=trend)
    experts = SimulatedExperts(SIZES[name])
    cached = CachedExperts(experts, SCHEDULE, MagCache(SCHEDULE, flat_table(SCHEDULE), settings))
    with simulated(), cached.active(PHASE) as denoiser:
        needed = denoiser.denoiser.needed_bytes(denoiser.session.tokens_held)
        assert_right(needed, peak_of(denoiser, experts, calls=3))


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("name", ["T2V 14B", "I2V 14B", "TI2V 5B"])
def test_of_a_rank_that_shares_the_tokens_it_is_enough(name: str, count: int) -> None:
    """Of one whose exchanges are torch's fake ones, which have shapes and places alone."""
    experts = SimulatedExperts(SIZES[name])
    with fake_ranks(count) as ranks, simulated():
        shard = Shard(ranks, NoEvents(Ranks(), lambda: False))
        with ShardedExperts(UlyssesExperts(experts, shard), shard).active(PHASE) as denoiser:
            needed, peak = denoiser.needed_bytes(), peak_of(denoiser, experts)
    assert 1 <= needed / peak <= 1.25, f"{needed / 2**30:.2f} GiB estimated, {peak / 2**30:.2f} GiB counted"


class NoEvents(AgreedStop):
    """There is no GPU to wait for."""

    def _hold(self) -> None:
        pass


@contextmanager
def fake_ranks(count: int) -> Iterator[Ranks]:
    dist.init_process_group("fake", rank=0, world_size=count, store=FakeStore())
    try:
        yield Ranks(0, count, dist.group.WORLD)
    finally:
        dist.destroy_process_group()

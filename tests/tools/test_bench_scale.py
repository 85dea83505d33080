"""The plan for many GPUs by its formulas, and these against what ranks exchange; one rank against two on a small video."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from fastvideo_core.parallel import Layout, Ranks
from tools.bench import scale, scale_page
from tools.bench.scale_plan import (
    ETHERNET,
    NVLINK,
    PCIE,
    RATE,
    VIDEOS,
    Video,
    exchanged,
    gathered,
    plan,
    step,
    velocity_bytes,
)  # fmt: skip

LARGE = VIDEOS["14B 720p"]
TINY = Video(title="tiny", heads=4, ffn_dim=96, layers=3, latents=(3, 4, 8), head_dim=6, itemsize=4)


@dataclass(frozen=True)
class CountingRanks(Ranks):
    """Counts the values that it sends to others."""

    sent: list[int] = field(default_factory=list)

    def _exchanged(self, sent: Tensor, receives: list[int], sends: list[int]) -> Tensor:
        self.sent.append(sum(sends) - sends[self.rank])
        return super()._exchanged(sent, receives, sends)


@contextmanager
def counting(count: int) -> Iterator[CountingRanks]:
    dist.init_process_group("fake", rank=0, world_size=count, store=FakeStore())
    try:
        yield CountingRanks(0, count, dist.group.WORLD)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("count", [2, 4])
def test_bytes_in_the_plan_are_those_that_ranks_send(count: int) -> None:
    with counting(count) as ranks:
        own = torch.zeros(1, TINY.tokens // count, TINY.heads, TINY.head_dim)
        heads = ranks.to_heads([own, own, own], TINY.tokens)
        ranks.to_tokens(heads[0], TINY.tokens)
    assert TINY.layers * TINY.itemsize * sum(ranks.sent) == exchanged(TINY, count)
    assert gathered(TINY, count) == TINY.token_bytes - own.nbytes


def test_the_largest_video_in_figures() -> None:
    """Wan 14B at 720p: 774 MB of tokens between two blocks."""
    assert LARGE.tokens == 75600 and LARGE.token_bytes == 774_144_000
    assert LARGE.flops == pytest.approx(6.52e15, rel=1e-3) and velocity_bytes(LARGE) == 19_353_600
    assert [round(2 * exchanged(LARGE, ranks) / 1e9, 1) for ranks in (2, 4, 8)] == [61.9, 46.4, 27.1]
    assert [round(2 * gathered(LARGE, ranks) / 1e9, 1) for ranks in (1, 2, 4, 8)] == [0, 0.8, 1.2, 1.4]


def test_a_step_is_computing_and_exchanging() -> None:
    alone = step(LARGE, Layout(), PCIE, ETHERNET)
    assert alone == (2 * LARGE.flops / RATE, 0, 0)
    shared, halves = step(LARGE, Layout(1, 8), PCIE, ETHERNET), step(LARGE, Layout(2, 4), PCIE, ETHERNET)
    assert shared.computing == halves.computing == alone.computing / 8
    assert shared.exchanging == pytest.approx(2 * (exchanged(LARGE, 8) + gathered(LARGE, 8)) / PCIE.rate)
    assert halves.branches == velocity_bytes(LARGE) / ETHERNET.rate and halves.total < shared.total


def test_the_plan_takes_whole_groups_of_whole_machines() -> None:
    rows = plan(VIDEOS["1.3B 480p"], (1, 8, 64), 8, (NVLINK,), ETHERNET)
    found = [(row.machines, row.layout, row.groups) for row in rows]
    assert found == [(1, Layout(), 1), (1, Layout(2, 4), 1), (8, Layout(2, 6), 4)]
    assert len(scale_page.plan_table(LARGE)) == 4 + len(scale_page.GPUS)


def test_two_ranks_are_measured_against_one() -> None:
    found = scale.run("demo", rounds=1)
    assert found.ranks == 2 and len(found.alone) == len(found.together) == 1
    assert found.error < 1e-5 and 0 < found.exchanging[0] < found.together[0]
    assert "| 2 |" in scale_page.measured_table(found)[3]

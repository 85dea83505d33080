"""The plan for many GPUs by its formulas, and these against what ranks exchange; one rank against two on a small video."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch
import torch.distributed as dist
from diffusers import WanTransformer3DModel
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from fastvideo_core.parallel import Layout, Ranks
from tools.bench import scale, scale_page
from tools.bench.page import PAGE
from tools.bench.scale_page import plans, several_gpus
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
    weights_received,
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
    assert alone == (2 * LARGE.flops / RATE, 0, 0, 0)
    shared, halves = step(LARGE, Layout(1, 8), PCIE, ETHERNET), step(LARGE, Layout(2, 4), PCIE, ETHERNET)
    assert shared.computing == halves.computing == alone.computing / 8
    assert shared.exchanging == pytest.approx(2 * (exchanged(LARGE, 8) + gathered(LARGE, 8)) / PCIE.rate)
    assert halves.branches == velocity_bytes(LARGE) / ETHERNET.rate and halves.total < shared.total
    sharded = step(LARGE, Layout(2, 4), PCIE, ETHERNET, shard_weights=True)
    assert sharded == halves._replace(weights=0.75 * LARGE.weight_bytes / PCIE.rate)


@pytest.mark.parametrize("name", VIDEOS)
def test_the_weights_in_the_plan_are_those_of_the_networks_blocks(name: str) -> None:
    """Of diffusers' network, whose block says which of its weights stay in float32."""
    video = VIDEOS[name]
    with torch.device("meta"):
        network = WanTransformer3DModel(num_layers=1, num_attention_heads=video.heads, ffn_dim=video.ffn_dim)
    kept = set(network._keep_in_fp32_modules)
    sizes = [weight.numel() * (4 if kept & set(key.split(".")) else 2) for key, weight in network.blocks[0].named_parameters()]
    assert video.weight_bytes == video.layers * sum(sizes)
    assert weights_received(video, 4) == video.weight_bytes - video.weight_bytes / 4


def test_the_pages_have_what_the_plan_gives() -> None:
    """README.md and BENCHMARKS.md, to 64 GPUs."""
    for page, block, text in ((scale_page.README, "several gpus", several_gpus()), (PAGE, "scale plan", plans())):
        content = page.read_text(encoding="utf-8")
        assert content.partition(f"<!-- {block} -->\n")[2].partition(f"\n<!-- end of {block} -->")[0] == text, page.name
        assert "\n| 64 | 8 | 4 x cfg 2 x ulysses 8 |" in text


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

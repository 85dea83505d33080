"""Layouts, and what ranks exchange: on real ranks, by value."""

import os
from itertools import chain, product
from pathlib import Path

import pytest
import rank_cases
import tiny
import torch
from rank_group import RankGroup

from fastvideo_core import RequestError
from fastvideo_core.parallel import Layout, degrees, suggested
from fastvideo_core.parallel.layout import rows, shares


def test_shares_differ_by_one_and_lie_one_after_another() -> None:
    assert list(shares(18, 4)) == [5, 5, 4, 4] and list(shares(45, 4)) == [12, 11, 11, 11] and list(shares(3, 3)) == [1, 1, 1]
    for total in range(5, 40):
        for size in range(1, 6):
            parts = [list(range(total))[rows(total, size, rank)] for rank in range(size)]
            assert list(chain(*parts)) == list(range(total))
            assert [len(part) for part in parts] == list(shares(total, size))
    with pytest.raises(RequestError, match="4 ranks were to share 3 tokens"):
        rows(3, 4, 0)


def test_a_layout_says_who_works_with_whom() -> None:
    layout = Layout(cfg=2, ulysses=3)
    assert layout.ranks == 6 and layout.text() == "cfg 2 x ulysses 3"
    assert layout.sharing_tokens == [[0, 1, 2], [3, 4, 5]] and layout.sharing_rows == [[0, 3], [1, 4], [2, 5]]
    assert [layout.branch(rank) for rank in (0, 2, 3, 5)] == ["positive", "positive", "negative", "negative"]


def test_heads_bound_how_many_ranks_share_tokens() -> None:
    """Wan 14B has 40 heads, 5B 24, 1.3B 12."""
    assert degrees(40) == [1, 2, 4, 5, 8, 10, 20, 40] and degrees(12) == [1, 2, 3, 4, 6, 12]
    Layout(2, 4).check(12)
    with pytest.raises(RequestError, match=r"12 heads of attention are not divisible by that. Use one of 1, 2, 3, 4, 6, 12\."):
        Layout(1, 8).check(12)


@pytest.mark.parametrize("given", [{"cfg": 3}, {"cfg": 0}, {"ulysses": 0}, {"ulysses": 1.5}])
def test_layouts_that_are_none_are_refused(given: dict[str, int]) -> None:
    with pytest.raises(RequestError):
        Layout(**given)


def test_without_guidance_all_ranks_share_tokens_where_heads_allow_it() -> None:
    assert Layout(2, 2).unguided(12) == Layout(1, 4) and Layout(2, 4).unguided(40) == Layout(1, 8)
    assert Layout(2, 4).unguided(12) == Layout(1, 4), "8 ranks do not divide 12 heads: each half computes the same"
    assert Layout(1, 4).unguided(12) == Layout(1, 4)


@pytest.mark.parametrize(
    ("gpus", "heads", "machines", "guided", "layout"),
    [
        (1, 40, 1, True, Layout()), (2, 40, 1, True, Layout(2, 1)), (8, 40, 1, True, Layout(2, 4)),
        (8, 12, 1, True, Layout(2, 4)), (8, 40, 1, False, Layout(1, 8)), (8, 12, 1, False, Layout(1, 6)),
        (16, 40, 2, True, Layout(2, 8)), (64, 40, 8, True, Layout(2, 8)), (64, 40, 8, False, Layout(1, 8)),
        (2, 40, 2, True, Layout(2, 1)), (2, 40, 2, False, Layout()), (3, 40, 1, True, Layout(2, 1)),
    ],
)  # fmt: skip
def test_ulysses_stays_within_a_machine(gpus: int, heads: int, machines: int, guided: bool, layout: Layout) -> None:
    assert suggested(gpus, heads, machines, guided) == layout


def test_machines_that_differ_have_no_layout() -> None:
    with pytest.raises(RequestError, match="as many on each"):
        suggested(9, 40, 2)


@pytest.mark.parametrize("size", [2, 4])
def test_tokens_become_heads_and_come_back(ranks: RankGroup, size: int) -> None:
    """Of one and two samples, shares of equal and of unequal length, each dtype."""
    dtypes = torch.float64, torch.float32, torch.bfloat16
    given = [tiny.normal((3, batch, total, 8, 4), 1).to(kind) for batch, total, kind in product((1, 2), (12, 13, 7), dtypes)]
    for rank, found in enumerate(ranks.run(Layout(1, size), rank_cases.exchanged, given)):
        own = slice(rank * 8 // size, (rank + 1) * 8 // size)
        for (heads, back, everything), x in zip(found, given, strict=True):
            assert torch.equal(heads, x[:, :, :, own])
            assert torch.equal(back, x[-1][:, rows(x.shape[2], size, rank)])
            assert torch.equal(everything, x[-1])


def test_sums_are_the_same_bits_on_every_rank_in_the_order_of_the_ranks(ranks: RankGroup) -> None:
    values = [1e8, 1.0, -1e8, 3.0]
    total = torch.tensor(0.0)
    for value in values:
        total = total + value
    for found in ranks.run(Layout(2, 2), rank_cases.summed, values):
        assert torch.equal(found, torch.stack([total, torch.tensor(4.0)]))


def test_each_rank_is_in_the_groups_of_its_layout(ranks: RankGroup) -> None:
    assert ranks.run(Layout(2, 2), rank_cases.places) == [
        [(rank, 4), (rank % 2, 2), (rank // 2, 2), (rank, 4)] for rank in range(4)
    ]
    assert ranks.run(Layout(2, 1), rank_cases.places) == [[(rank, 2), (0, 1), (rank, 2), (rank, 2)] for rank in range(2)]
    found = ranks.run(Layout(2, 2), rank_cases.branches_swapped)
    assert [rows[0, :, 0].tolist() for rows in found] == [[0, 2], [1, 3], [0, 2], [1, 3]]


def test_a_group_of_one_exchanges_nothing(ranks: RankGroup) -> None:
    assert ranks.run(Layout(), rank_cases.alone) == [True]


def test_after_a_failure_no_rank_is_left_and_the_next_ones_work(tmp_path: Path) -> None:
    group = RankGroup(tmp_path, count=2)
    try:
        for case, limit, why in ((rank_cases.failing, 300, "this rank fails"), (rank_cases.waiting, 2, "did not answer in time")):
            assert group.run(Layout(1, 2), rank_cases.summed, [1.0, 2.0])[1].tolist() == [3.0, 2.0]
            before = group.processes
            with pytest.raises(AssertionError, match=why):
                group.run(Layout(1, 2), case, limit=limit)
            assert len(before) == 2 and not any(_runs(process) for process in before) and group.processes == []
    finally:
        group.close()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True

"""Core's real networks on four ranks, each with its own rows: what they give is what the networks give whole."""

from collections.abc import Iterator
from typing import Any

import pytest
from named_case import named_case
from rank_group import RankGroup
from tiny_wan import KINDS

from fastvideo_core.parallel import Layout

HALVES, TOGETHER = Layout(2, 2), Layout(1, 4)


@pytest.fixture(scope="module")
def ranks(comfy: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankGroup]:
    group = RankGroup(tmp_path_factory.mktemp("ranks"))
    yield group
    group.close()


def run(ranks: RankGroup, layout: Layout, case: str, *given: Any) -> list[Any]:
    """The first one imports ComfyUI's modules."""
    return ranks.run(layout, named_case, case, *given, limit=300)


@pytest.mark.parametrize("kind", KINDS)
def test_each_plain_kind_is_equal_on_two_and_four_ranks(ranks: RankGroup, kind: str) -> None:
    """Of 48 tokens and of 27, which do not divide. In float64 the latter differ by a rounding: BLAS computes a row otherwise
    among 14 than among 27."""
    for found in run(ranks, HALVES, "kind_case", kind):
        assert len(found) == 6 and set(found.values()) == {0.0}, found


def test_frames_that_a_node_puts_behind_the_video_are_shared_as_well(ranks: RankGroup) -> None:
    assert run(ranks, TOGETHER, "frames_beside_case") == [0.0] * 4


def test_another_packs_block_hook_sees_own_rows_once(ranks: RankGroup) -> None:
    """It lets its block run twice, and both times self-attention is over all ranks' rows."""
    found = run(ranks, TOGETHER, "hook_case")
    assert [each["rows"] for each in found] == [[[rows, rows]] for rows in (7, 7, 7, 6)]
    assert [each["difference"] for each in found] == [0.0] * 4

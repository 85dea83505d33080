"""Calls of Wan's networks by several ranks: the same velocities as by one process, in a part of the memory."""

from collections import Counter
from itertools import product

import pytest
import sharded_cases
import sharded_runs
import torch
from rank_group import RankGroup
from sharded_cases import Model, request
from sharded_networks import HEADS, KINDS

from fastvideo_core.parallel import Layout

EVEN, ODD = (3, 4, 8), (3, 6, 10)
"""24 and 45 tokens: of 4 ranks 6 each, and 12, 11, 11, 11."""
SHARING = pytest.mark.parametrize("layout", [Layout(1, 2), Layout(1, 4)], ids=Layout.text)
HALVES = pytest.mark.parametrize("layout", [Layout(2, 1), Layout(2, 2)], ids=Layout.text)


def assert_same_bits(ranks: RankGroup, layout: Layout, models: list[Model]) -> None:
    """As one process, and on all ranks."""
    found = ranks.run(layout, sharded_cases.against_one, models)
    assert [[error for error, _ in each] for each in found] == [[0.0] * len(models)] * layout.ranks
    for of_ranks in zip(*found, strict=True):
        assert all(torch.equal(velocities, of_ranks[0][1]) for _, velocities in of_ranks)


@SHARING
def test_every_kind_gives_the_same_bits(ranks: RankGroup, layout: Layout) -> None:
    assert_same_bits(ranks, layout, [Model(*case) for case in product(KINDS, (EVEN, ODD), (1, 2))])


@HALVES
def test_so_do_halves_that_have_a_branch_each(ranks: RankGroup, layout: Layout) -> None:
    assert_same_bits(ranks, layout, [Model(kind, ODD, 2) for kind in KINDS])


@pytest.mark.parametrize("layout", [Layout(1, 2), Layout(2, 2)], ids=Layout.text)
def test_in_single_precision_but_for_rounding(ranks: RankGroup, layout: Layout) -> None:
    limits = {torch.float32: 2e-6, torch.bfloat16: 2e-2}
    models = [Model(kind, ODD, dtype=dtype) for kind, dtype in product(("T2V", "I2V with CLIP", "TI2V"), limits)]
    for each in ranks.run(layout, sharded_cases.against_one, models):
        assert all(error <= limits[model.dtype] for (error, _), model in zip(each, models, strict=True)), each


@SHARING
def test_no_tensor_of_all_tokens_is_made_in_a_block(ranks: RankGroup, layout: Layout) -> None:
    """But for this rank's share of the heads. Of TI2V, whose tokens have a modulation each."""
    model = Model("TI2V", ODD)
    most = -(-model.tokens // layout.ulysses)
    for shapes in ranks.run(layout, sharded_runs.shapes_in_blocks, model):
        wide = {shape for shape in shapes if shape[-1] == 48 and len(shape) in (3, 4)}
        assert max(shape[1] for shape in wide if shape[1] < 60) in (most, most - 1), "of 60 and more are the text's rows"
        assert {shape[2] for shape in shapes if len(shape) == 4 and shape[1] == model.tokens} == {HEADS // layout.ulysses}


@pytest.mark.parametrize("layers", [2, 3])
def test_two_exchanges_a_block_and_a_gather_a_call(ranks: RankGroup, layers: int) -> None:
    """Of halves, another gather for the branches' velocities. The reductions ask for a stop. No step does more than another."""
    model = Model("T2V", ODD, layers=layers)
    sharing = Counter({"alltoall_base_": 2 * layers, "_allgather_base_": 1, "allreduce_": layers})
    for layout, expected in ((Layout(1, 2), sharing), (Layout(2, 2), sharing + Counter(_allgather_base_=1))):
        for steps in ranks.run(layout, sharded_runs.exchanges, model, request()):
            assert steps == [expected] * 3

"""Calls and generations of Wan's networks by several ranks: the same velocities, videos and decisions as by one process, in less
memory, whatever works inside the shares. One file, for the ranks start once in a process that tests.
"""

from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import sharded_cases
import sharded_runs
import torch
from rank_group import RankGroup
from sharded_cases import Model, request
from sharded_networks import CPU, HEADS, KINDS, network
from sharded_runs import dbcache, magcache
from tiny_transformer import fp8_scaled, lightx2v_lora, original, save

from fastvideo_core import (
    AttentionSettings,
    CompileSettings,
    GuidanceSettings,
    PhaseSettings,
    RequestError,
    SamplingRequest,
)
from fastvideo_core.attention.sparse import BSASettings, NABLASettings, SLASettings, SparseSchedule, STASettings, VSASettings
from fastvideo_core.parallel import Layout, Ranks
from fastvideo_core.step_cache.calibration import RatioMeter
from fastvideo_core.step_cache.session import of_all_rows
from fastvideo_core.wan.parts import File
from fastvideo_core.wan.ranked import PhaseAccount, check_session
from fastvideo_core.wan.sharded import check_guidance
from fastvideo_core.wan.sharded_weights import ShardedWeights, check_layout, check_unquantised

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
    models = [Model(*case) for case in product(KINDS, (EVEN, ODD), (1, 2))]
    models += [Model(*case, shard_weights=True) for case in product(("T2V", "I2V with CLIP", "TI2V"), (EVEN, ODD), (1, 2))]
    assert_same_bits(ranks, layout, models)


@HALVES
def test_so_do_halves_that_have_a_branch_each(ranks: RankGroup, layout: Layout) -> None:
    assert_same_bits(ranks, layout, [Model(kind, ODD, 2, shard_weights=layout.ulysses > 1) for kind in KINDS])


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


STEPS = 8


TWO_EXPERTS = {"boundary": 0.8, "low_noise_guidance_scale": 3.0}
SEQUENTIAL = {"guidance": GuidanceSettings(mode="sequential")}


@pytest.mark.parametrize("layout", [Layout(1, 2), Layout(2, 2)], ids=Layout.text)
def test_step_caches_decide_as_in_one_process(ranks: RankGroup, layout: Layout) -> None:
    """The residuals are of own rows, and where halves have a branch each, of that branch."""
    model = Model("T2V", ODD, layers=3)
    kinds: list[dict[str, Any]] = [{}, TWO_EXPERTS, {"guidance_scale": 1.0, "steps": 10}]
    kinds += [SEQUENTIAL] if layout.cfg == 1 else []
    given = [(model, request(**{"steps": STEPS, **kind}), cache) for kind in kinds for cache in (magcache, dbcache)]
    sharded = replace(model, shard_weights=layout.ulysses > 1)
    given += [(sharded, request(STEPS, **TWO_EXPERTS), cache) for cache in (magcache, dbcache)]
    for found in ranks.run(layout, sharded_runs.generations, given):
        for each in found:
            assert each.error == 0 and each.decisions == each.alone and "S" in each.decisions
            assert each.held <= each.held_alone / layout.ranks + each.held_alone / model.tokens


def test_a_threshold_between_what_the_ranks_have_alone_is_decided_once(ranks: RankGroup) -> None:
    """By own rows alone one rank would skip and the other one compute, and both wait for ever."""
    found = ranks.run(Layout(1, 2), sharded_runs.between_ranks, Model("T2V", ODD, layers=3), request(4), 2)
    differences, threshold, *_ = found[0]
    assert min(differences) < threshold < max(differences)
    assert {decisions for _, _, decisions, _ in found} == {found[0][3]}


TILE = (1, 2, 2)
SPARSE: dict[str, tuple[Any, str]] = {
    "VSA": (VSASettings(sparsity=0.5, tile=TILE), ""),
    "VSA with its gate": (VSASettings(sparsity=0.5, tile=TILE), "to_gate_compress"),
    "SLA": (SLASettings(sparsity=0.5), ""),
    "SLA with its projection": (SLASettings(sparsity=0.5), "proj_l"),
    "BSA": (BSASettings(tile=TILE, least_tiles=2), ""),
    "STA": (STASettings(window=(1, 3, 3), tile=TILE), ""),
    "NABLA": (NABLASettings(mass=0.5, tile=TILE), ""),
}
"""Settings, and the layer of self-attention that their checkpoints have."""


@pytest.mark.parametrize("layout", [Layout(1, 2), Layout(1, 4)], ids=Layout.text)
def test_sparse_attention_of_own_heads_gives_the_same_bits(ranks: RankGroup, layout: Layout) -> None:
    """Each rank tells what it computed of its heads, of which VSA and NABLA choose the tiles one by one."""
    given = [
        (Model("T2V", ODD, sparse=SparseSchedule(settings=settings, dense_steps=1, kernel="gather"), trained=trained), request(2))
        for settings, trained in SPARSE.values()
    ]
    found = ranks.run(layout, sharded_runs.generations, given)
    assert {name: error for of_rank in found for name, error in zip(SPARSE, [each.error for each in of_rank], strict=True)} == (
        dict.fromkeys(SPARSE, 0.0)
    )
    for of_rank in found:
        assert all(each.account.sparse[0].sparse_calls == each.account.sparse[0].dense_calls == 2 for each in of_rank)
    accounts = [of_rank[list(SPARSE).index("NABLA")].account for of_rank in found]
    densities = [account.sparse[0].density for account in accounts]
    together = PhaseAccount.of_all(accounts)
    assert together.sparse[0].density == pytest.approx(sum(densities) / len(densities)) and max(densities) > min(densities)
    assert f"{max(densities):.1%} of the pairs of tokens, and the others wait" in together.notes[-1]


def test_a_chosen_backend_compiled_and_offloaded_blocks_give_the_same_bits(ranks: RankGroup) -> None:
    compiled, chosen = CompileSettings(backend="eager"), AttentionSettings(self_attention="sdpa_math")
    sparse = SparseSchedule(settings=SPARSE["NABLA"][0], kernel="gather")
    options: list[dict[str, Any]] = [{"attention": chosen}, {"compile": compiled}, {"compile": compiled, "attention": chosen}]
    options += [{"compile": compiled, "sparse": sparse}, {"offloaded": True}]
    shared: list[dict[str, Any]] = [{"sparse": sparse}, {"compile": compiled}, {"compile": compiled, "sparse": sparse}]
    options += [{**option, "shard_weights": True, "attention": chosen} for option in shared]
    given = [(Model("T2V", ODD, **option), request(3), magcache if "compile" in option else None) for option in options]
    for found in ranks.run(Layout(1, 2), sharded_runs.generations, given):
        assert [each.error for each in found] == [0.0] * len(given)
        assert found[0].account.attention[0].backend == "sdpa_math" and found[0].account.attention[0].calls == 6
        assert "blocks compiled by eager" in found[1].account.notes[-1]


def test_heads_that_not_all_ranks_can_share_are_shared_by_each_half(ranks: RankGroup) -> None:
    """Of 2 heads, by 4 ranks, in a phase without guidance; with two phases, of which the first one has some."""
    model = Model("T2V", ODD, heads=2)
    phases = [PhaseSettings(expert="single", guidance_scale=scale, until=until) for scale, until in ((4.0, 0.9), (1.0, 0.0))]
    given = [(model, request(10, 1.0), dbcache), (model, SamplingRequest(steps=4, shift=5.0, phases=phases, solver="euler"))]
    for found in ranks.run(Layout(2, 2), sharded_runs.generations, given):
        assert [each.error for each in found] == [0.0, 0.0] and found[0].decisions == found[0].alone
        assert "each half of them computed the same" in found[1].account.notes[-1]
    with pytest.raises(RequestError, match="shared by 4 ranks, and the network's 2 heads"):
        sharded_runs.alone_on_one(model, request(1), None, Layout(1, 4))


ENDS = [("closed", 0, "", 4), ("failed", 3, "ValueError", 3)]
ENDS += [("stopped", asks, "StoppedError", blocks) for asks, blocks in ((1, 2), (3, 4), (4, 6))]
"""How, at which block, what is raised, and how many blocks were begun. A network of 4 blocks: told in the last one of a call, a
rank stops in the next call."""


@pytest.mark.parametrize("layout", [Layout(1, 2), Layout(2, 2), Layout(2, 1)], ids=Layout.text)
def test_nothing_is_left_after_an_end_before_the_end(ranks: RankGroup, layout: Layout) -> None:
    """One rank is told to stop, and all stop in the same block, the next one."""
    model = Model("I2V with CLIP", ODD, layers=4, shard_weights=layout.ulysses > 1)
    for how, asks, raised, blocks in ENDS:
        found = ranks.run(layout, sharded_runs.ended, model, request(3), how, asks)
        assert [(each.raised, each.left, each.again) for each in found] == [(raised, False, 0.0)] * layout.ranks, how
        assert {each.blocks for each in found} == {blocks}, (how, found)


FOUR_HEADS = {"config": '{"transformer": {"num_heads": 4}}'}


@SHARING
def test_a_rank_holds_its_part_of_the_weights_and_gathers_block_by_block(
    ranks: RankGroup, layout: Layout, tmp_path: Path
) -> None:
    """No whole weight is made while they are read from a file. Layers are computed by what is fastest for them."""
    model, count = Model("T2V", ODD, dtype=torch.float32, layers=4, shard_weights=True), layout.ulysses
    weights = dict(model.networks()["single"].blocks.named_parameters())
    file = save(model.networks()["single"].state_dict(), tmp_path / "network.safetensors", FOUR_HEADS)
    found = ranks.run(layout, sharded_runs.held, file, model)
    longest = {name: -(-weight.shape[0] // count) * weight[0].numel() for name, weight in weights.items()}
    for name, weight in weights.items():
        assert sum(each.values[name] for each in found) == weight.numel() and found[0].values[name] == longest[name]
    block = sum(weight.nbytes for name, weight in weights.items() if name.startswith("0."))
    for each in found:
        assert each.own <= each.private <= each.reading <= 4 * sum(longest.values()) + 100 < 1.2 * 4 * block / count
        assert each.whole == [[0], [1], [2], [3]] and each.left == {"meta"} and each.written == 0
        assert each.error <= 2e-6 and each.linears > 0


def test_loras_are_fused_into_weights_that_ranks_share(ranks: RankGroup, tmp_path: Path) -> None:
    """Also those that replace a norm or a bias."""
    lora = save(lightx2v_lora(network()), tmp_path / "lora.safetensors")
    model = Model("T2V", ODD, lora=lora, shard_weights=True)
    for found in ranks.run(Layout(1, 2), sharded_runs.generations, [(model, request(2))]):
        assert found[0].error == 0 and "shared by 2 ranks: each holds" in found[0].account.notes[-1]
    for words in ranks.run(Layout(1, 2), sharded_runs.lora_afterwards, model):
        assert "Apply LoRAs before the first generation" in words


def test_weights_that_ranks_cannot_share_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"cfg 2 x ulysses 1 none do.* such as cfg 1 x ulysses 2"):
        check_layout(Layout(2, 1))
    two, quantised = Ranks(0, 2), network(dtype=torch.float32)
    file = save(*fp8_scaled(original(quantised))[:1], tmp_path / "fp8.safetensors")
    with pytest.raises(RequestError, match=r"fp8\.safetensors are quantised \(float8\)\. Use the bf16"):
        check_unquantised({"single": File(file, None)})
    layer = quantised.blocks[0].attn1.to_q
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(RequestError, match="those of this transformer are quantised"):
        ShardedWeights(quantised, two, CPU)
    with pytest.raises(RequestError, match="group-offloaded"):
        ShardedWeights(Model("T2V", ODD, offloaded=True).networks()["single"], two, CPU)


def test_one_rank_is_one_process_and_asks_nobody() -> None:
    found = sharded_runs.alone_on_one(Model("T2V", ODD, layers=3), request(STEPS), magcache)
    assert found.error == 0 and found.decisions == found.alone


def test_a_cache_that_cannot_decide_with_other_ranks_is_refused() -> None:
    """cache-dit's sessions decide by themselves, and a ratio table is measured by one process."""
    with pytest.raises(RequestError, match="another package"):
        check_session(object())
    with pytest.raises(RequestError, match="calibrate on one GPU"):
        RatioMeter().share(of_all_rows)


@pytest.mark.parametrize("guidance", [GuidanceSettings(mode="sequential"), GuidanceSettings(gate=0.5)])
def test_halves_with_a_branch_each_refuse_calls_of_one(ranks: RankGroup, guidance: GuidanceSettings) -> None:
    with pytest.raises(RequestError, match="layout with cfg 1"):
        check_guidance(Layout(2, 2), guidance)
    check_guidance(Layout(1, 4), guidance)
